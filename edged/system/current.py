"""The settings in force: read anew on SIGHUP, kept for a start with broken ones, and doubted while those are broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edged import log
from edged.config import last_good, reload
from edged.config.load import load
from edged.config.origin import Origin
from edged.config.settings import Settings
from edged.errors import Code, EdgedError
from edged.events import EventLog, Severity
from edged.system.life import Life


class Current:
    """One for the daemon."""

    def __init__(
        self, settings: Settings, origin: Origin, wrong: Sequence[EdgedError], events: EventLog, life: Life
    ) -> None:
        """`settings` as written, their paths not yet under the root; `wrong`: why they are not those of the files."""
        self.settings = settings
        self._origin = origin
        self._events = events
        self._life = life
        self._doubts: list[str] = []
        self._log = log.get("settings")
        for error in wrong:
            what = "the settings are wrong, so "
            what += "only administrators are served" if origin.unknown else "the last good ones hold"
            events.record(Severity.ERROR, error.code, "settings", f"{what}:\n{error}")
            self._doubts.append(f"{what}: {error.in_a_line()}")
            life.degrade(self._doubts[-1])

    def read_again(self, take: Callable[[Settings], None]) -> None:
        """Reads the files; `take` is given settings without a fault, what is wrong with others is told."""
        try:
            take(load(self._origin.root, self._origin.files).settings)
        except EdgedError as error:
            self._events.record(
                Severity.ERROR, error.code, "settings", f"nothing was changed; the settings are wrong:\n{error}"
            )
        except Exception:  # noqa: BLE001 - logged, and told as an event
            self._log.exception("a reload met a defect of edged")
            self._events.record(
                Severity.ERROR, Code.INTERNAL, "settings", "the reload met a defect of edged; its log says more"
            )

    def take(self, new: Settings) -> Settings:
        """What of `new` can change while the daemon runs holds from now on; of the rest it is told. The settings."""
        changes = reload.changes(self.settings, new)
        while self._doubts:
            self._life.recover(self._doubts.pop())
        for change in changes:
            text = f"{change.key} is now {change.new!r}, was {change.old!r}"
            if change.applies:
                self._events.record(Severity.INFO, "setting_changed", change.key, text)
            else:
                self._events.record(
                    Severity.WARNING, "restart_needed", change.key, f"{text}; this takes effect when edged is restarted"
                )
        self.settings = reload.applied(self.settings, new)
        self.remember(new)
        return self.settings

    def remember(self, settings: Settings) -> None:
        """Keeps what was started with, for a start with broken files; not while the files are in doubt."""
        if self._doubts:
            return
        try:
            self._origin.last_good.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            last_good.remember(self._origin.last_good, settings)
        except OSError as error:
            self._events.record(
                Severity.WARNING,
                "settings_not_kept",
                "edged",
                f"the settings cannot be kept for a start with broken ones: {error}",
            )
