"""Which variant of a bundle is to run: the best that can, unless another is preferred, or what it runs on is broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edged.bundle.manifest import Manifest, Variant
from edged.errors import Code, EdgedError
from edged.models.selection import PassedOver, choose, select
from edged.models.workshop import Workshop
from edged.system.hardware import Hardware


class Choice:
    """The variants of one bundle on this device. `changed` is called when another may be the one to run."""

    def __init__(
        self,
        manifest: Manifest,
        hardware: Hardware,
        runtimes: Mapping[str, str | None],
        changed: Callable[[], None],
        workshop: Workshop | None = None,
    ) -> None:
        self._manifest = manifest
        self._hardware = hardware
        self._runtimes = runtimes
        self._workshop = workshop
        self._changed = changed
        self._preferred = ""
        self._preferred_because = ""
        self._avoided: dict[str, str] = {}
        self._short: dict[str, EdgedError] = {}
        self.anew()

    def anew(self) -> None:
        """Every variant has its chance again."""
        self.runnable, self.passed_over = select(self._manifest, self._hardware, self._runtimes)
        self._short = {}

    @property
    def possible(self) -> Sequence[Variant]:
        """Every variant that this device's hardware and engines allow, whatever became of it since."""
        return select(self._manifest, self._hardware, self._runtimes)[0]

    @property
    def variant(self) -> Variant:
        """The one to run. Raises IndexError when none is left."""
        return choose(self.runnable, self._preferred, self._objected)

    @property
    def because(self) -> str:
        """Why something else than the best variant is to run; empty where nothing speaks against that."""
        return self._preferred_because or next(iter(self._objected.values()), "")

    @property
    def _objected(self) -> dict[str, str]:
        """What speaks against variants that may run, by their names."""
        return self._avoided | {name: why.message for name, why in self._short.items()} | self._lacking

    @property
    def unbuilt(self) -> list[Variant]:
        """Those that may run and are not built yet, best first; not for what is broken."""
        return [each for each in self.runnable if each.name in self._lacking and each.name not in self._avoided]

    @property
    def waiting(self) -> list[PassedOver]:
        """Those that are not built yet, and those that are asked for again, for people."""
        short = [PassedOver(name, why.code, str(why)) for name, why in self._short.items()]
        return short + [PassedOver(name, Code.NOT_BUILT, why) for name, why in self._lacking.items()]

    @property
    def _lacking(self) -> dict[str, str]:
        if self._workshop is None:
            return {}
        found = {each.name: self._workshop.lacks(self._manifest, each) for each in self.runnable}
        return {name: why for name, why in found.items() if why}

    def look_again(self) -> None:
        """Something may be built by now."""
        self._changed()

    @property
    def is_short(self) -> bool:
        """Whether there was no memory or no device for some variant when it was last asked for."""
        return bool(self._short)

    @property
    def objections(self) -> str:
        """Why each that is passed over is."""
        return "; ".join(f"{passed.variant}: {passed.reason}" for passed in self.passed_over)

    def prefer(self, variant: str, why: str) -> None:
        """Has `variant` run, where it can, until something else is preferred; empty: the best."""
        self._preferred_because = why if variant else ""
        if variant != self._preferred:
            self._preferred = variant
            self._changed()

    def avoid(self, variants: Mapping[str, str]) -> None:
        """Has others than `variants` run where there are any: what these run on is broken, and why.

        Each call holds alone.
        """
        if variants != self._avoided:
            self._avoided = dict(variants)
            self._changed()

    def spare(self, variant: Variant, why: EdgedError) -> bool:
        """Has others run than `variant` until `ask_again`, for want of memory or a device; whether there are any.

        Where there are none, all of them may be asked for again.
        """
        self._short[variant.name] = why
        if all(each.name in self._avoided or each.name in self._short for each in self.runnable):
            self._short = {}
        return bool(self._short)

    def ask_again(self) -> None:
        """There may be what it takes by now."""
        self._short = {}
        self._changed()

    def pass_over(self, variant: Variant, error: EdgedError | OSError) -> None:
        """Has it not run any more."""
        if variant not in self.runnable:
            return
        code = error.code if isinstance(error, EdgedError) else Code.LOAD_FAILED
        self.runnable.remove(variant)
        self.passed_over.append(PassedOver(variant.name, code, str(error)))
        places = [each.name for each in self._manifest.variants]
        self.passed_over.sort(key=lambda passed: places.index(passed.variant))
