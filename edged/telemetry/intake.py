"""Events on their way to the disk: so many an hour, and so many at once, the informational ones first to go. Pure."""

from __future__ import annotations

from collections import deque

from edged.events import Event, Severity
from edged.telemetry.messages import Happening

# A crash loop must not fill the spool: so many events an hour, and a few at once.
PER_HOUR = 120
SPARED = 40
"""Of these, what only warnings and errors may use: many small things do not hide how an update ended."""
MOST_WAITING = 256
"""What waits in memory while the disk takes nothing."""


class Intake:
    """What waits, the oldest first."""

    def __init__(self, now_s: float) -> None:
        """`now_s` is monotonic, here and below."""
        self.lost = 0
        """Events that came too fast, or while the disk took nothing, and stand nowhere else yet."""
        self.waiting: deque[tuple[Happening, bool]] = deque()
        """Each with whether it is a warning or an error. The first may be on its way to the disk already."""
        self._credit = float(PER_HOUR)
        self._at_s = now_s

    def take(self, event: Event, now_s: float) -> bool:
        """Takes an event; False where it is lost."""
        earned = (now_s - self._at_s) * PER_HOUR / 3600
        self._credit, self._at_s = min(self._credit + earned, PER_HOUR), now_s
        grave = event.severity in (Severity.WARNING, Severity.ERROR)
        if self._credit < 1 + (0 if grave else SPARED) or not self._has_room(grave=grave):
            self.lost += 1
            return False
        self._credit -= 1
        happening = Happening(
            at_ms=int(event.at.timestamp() * 1000),
            severity=event.severity,
            code=event.code,
            subject=event.subject,
            message=event.message[:2000],
            details={key: value[:500] for key, value in list(event.details.items())[:16]},
        )
        self.waiting.append((happening, grave))
        return True

    def _has_room(self, *, grave: bool) -> bool:
        """Whether another may wait; for a warning or an error, the oldest that is neither makes room."""
        if len(self.waiting) < MOST_WAITING:
            return True
        for place, (_, kept) in enumerate(self.waiting):
            if grave and not kept and place:
                del self.waiting[place]
                self.lost += 1
                return True
        return False
