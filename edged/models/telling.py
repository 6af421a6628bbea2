"""What happens to one model revision, as events."""

from __future__ import annotations

from edged.bundle.manifest import Manifest, Variant
from edged.errors import Code, EdgedError
from edged.events import EventLog, Severity
from edged.worker.process import Worker


class Telling:
    """Records the events of one model revision."""

    def __init__(self, events: EventLog, manifest: Manifest) -> None:
        self._events = events
        self._name = manifest.name
        self._revision = manifest.revision

    def ready(self, variant: Variant, worker: Worker, instead_of: str) -> None:
        """A worker answers from now on; `instead_of`: which variant's it replaces and why, in words."""
        self._record(
            Severity.INFO,
            "variant_changed" if instead_of else "model_ready",
            f"revision {self._revision}, variant {variant.name}, is ready{instead_of}",
            variant,
            load_s=round(worker.loaded.load_s + worker.loaded.warmup_s, 3),
            pid=worker.pid,
            made=worker.made,
        )

    def kept(self, variant: Variant, wanted: Variant, why: EdgedError | OSError) -> None:
        """`wanted` was to take the place of `variant`, and could not."""
        text = f"revision {self._revision} stays with variant {variant.name}; {wanted.name} does not load: {why}"
        self._record(Severity.WARNING, "variant_kept", text, variant, wanted=wanted.name, reason=_code(why))

    def rests(self, variant: Variant, why: str) -> None:
        """Its worker has gone until somebody asks."""
        self._record(Severity.INFO, "model_rests", f"revision {self._revision} rests: {why}", variant)

    def refused(self, variant: Variant, why: EdgedError) -> None:
        """It is not loaded for want of memory, or of its device."""
        self._record(Severity.ERROR, why.code, f"revision {self._revision} is not loaded: {why}", variant)

    def ended(self, variant: Variant, how: str, why: EdgedError | OSError, restart_s: float) -> None:
        """Its worker ended, and is started again."""
        text = f"the worker of revision {self._revision} ended: {how}"
        self._record(Severity.ERROR, _code(why), text, variant, restart_s=restart_s)

    def passed_over(self, variant: Variant, why: EdgedError | OSError) -> None:
        """A variant will not run here."""
        text = f"variant {variant.name} of revision {self._revision} is passed over: {why}"
        self._record(Severity.ERROR, _code(why), text, variant)

    def failed(self, reason: str) -> None:
        """Nothing of it runs here."""
        self._events.record(Severity.ERROR, "model_failed", self._name, reason, revision=self._revision)

    def _record(self, severity: Severity, code: str, text: str, variant: Variant, **details: object) -> None:
        known = {"revision": self._revision, "variant": variant.name}
        self._events.record(severity, code, self._name, text, **known, **details)


def _code(why: EdgedError | OSError) -> str:
    return why.code if isinstance(why, EdgedError) else Code.LOAD_FAILED
