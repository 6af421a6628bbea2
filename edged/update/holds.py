"""Leases by which applications hold off a change of what they are using. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import msgspec

from edged.errors import Code, EdgedError

_MOST = 256


class Lease(msgspec.Struct, frozen=True):
    """Until `ends_s` on the monotonic clock the route of `model` does not flip; empty: of no model."""

    id: str
    owner: str
    model: str
    ends_s: float


class Left(msgspec.Struct, frozen=True):
    """What of a lease is left, by no clock."""

    id: str
    owner: str
    model: str
    left_s: float


class Holds:
    """All leases that run."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}

    def take(self, owner: str, model: str, ends_s: float, now_s: float, lease: str = "") -> Lease:
        """A new lease, or with `lease` a running one renewed. Raises EdgedError."""
        self._drop_ended(now_s)
        if lease and lease not in self._leases:
            raise EdgedError(Code.INVALID_ARGUMENT, f"there is no lease {lease[:64]!r}", "it has ended; take a new one")
        if not lease and len(self._leases) >= _MOST:
            raise EdgedError(Code.OVERLOADED, f"{_MOST} leases run already", "release those that are not needed")
        known = self._leases.get(lease)
        taken = Lease(lease or secrets.token_hex(8), owner, known.model if known else model, ends_s)
        self._leases[taken.id] = taken
        return taken

    def release(self, lease: str) -> bool:
        """Ends a lease; whether there was one."""
        return self._leases.pop(lease, None) is not None

    def on(self, model: str, now_s: float) -> Lease | None:
        """The lease that holds `model` for longest; None when it may change."""
        self._drop_ended(now_s)
        found = [lease for lease in self._leases.values() if lease.model in ("", model)]
        return max(found, key=lambda lease: lease.ends_s, default=None)

    def left(self, now_s: float) -> list[Left]:
        """What is left of each."""
        self._drop_ended(now_s)
        return [Left(each.id, each.owner, each.model, each.ends_s - now_s) for each in self._leases.values()]

    def grant(self, left: Iterable[Left], now_s: float) -> None:
        """Has leases run for what was left of them."""
        self._leases |= {each.id: Lease(each.id, each.owner, each.model, now_s + each.left_s) for each in left}

    def _drop_ended(self, now_s: float) -> None:
        self._leases = {name: lease for name, lease in self._leases.items() if lease.ends_s > now_s}
