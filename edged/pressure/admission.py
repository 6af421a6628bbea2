"""Whether a model may be loaded: its measured peak against the memory that is left. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edged.pressure.readings import Memory


class Loaded(msgspec.Struct, frozen=True):
    """A model that is in memory. `priority`: 1 is the most important."""

    model: str
    size_bytes: int
    priority: int
    idle_s: float = 0.0
    """For how long nobody has asked it."""


class Verdict(msgspec.Struct, frozen=True):
    """What is to be done; `text` has the numbers."""

    admitted: bool
    text: str
    evict: tuple[str, ...] = ()
    """To be unloaded first, in this order."""


class Headroom(msgspec.Struct, frozen=True):
    """What may still be taken, and by whose word."""

    left_bytes: int
    text: str


def headroom(memory: Memory | None, taken_bytes: int, limit_bytes: int, reserve_bytes: int) -> Headroom:
    """The tightest of what is left by the kernel (machine and control groups) and by the settings (0: no limit).

    `taken_bytes` is what the daemon and its workers hold now. The reserve is kept from whichever it is.
    """
    found = []
    if memory:
        left = memory.available_bytes
        found.append((left, f"{_mib(left)} of {_mib(memory.limit_bytes)} MiB are left"))
    if limit_bytes:
        left = limit_bytes - taken_bytes
        found.append((left, f"{_mib(taken_bytes)} of the {_mib(limit_bytes)} MiB that the settings allow are taken"))
    if not found:
        return Headroom(2**63 - 1, "no limit is known")
    left, text = min(found)
    return Headroom(left - reserve_bytes, f"{text}, and {_mib(reserve_bytes)} MiB are kept in reserve")


def admit(model: str, peak_bytes: int, priority: int, room: Headroom, loaded: Sequence[Loaded]) -> Verdict:
    """Whether `model` may be loaded now.

    Where it does not fit, models that matter less make room: the least important first, of those the longest idle; one
    of the same priority only while nobody asks it. No more than needed; where all of them are not enough, none.
    """
    need = f"model {model!r} takes {_mib(peak_bytes)} MiB at its peak"
    missing = peak_bytes - room.left_bytes
    if missing <= 0:
        return Verdict(True, f"{need}; {room.text}")
    may_go = [each for each in loaded if each.priority > priority or (each.priority == priority and each.idle_s > 0)]
    may_go.sort(key=lambda each: (-each.priority, -each.idle_s, each.model))
    chosen: list[Loaded] = []
    for each in may_go:
        if sum(gone.size_bytes for gone in chosen) >= missing:
            break
        chosen.append(each)
    freed = sum(each.size_bytes for each in chosen)
    if freed < missing:
        could = f"unloading what matters less would free {_mib(freed)} MiB" if chosen else "nothing matters less"
        return Verdict(False, f"{need}; {room.text}; {_mib(missing)} MiB are missing, and {could}")
    for each in chosen[:]:  # the last one may have been so large that an earlier one can stay
        if freed - each.size_bytes >= missing:
            chosen.remove(each)
            freed -= each.size_bytes
    names = tuple(each.model for each in chosen)
    return Verdict(True, f"{need}; {room.text}; {', '.join(names)} made room of {_mib(freed)} MiB", names)


def _mib(count: int) -> int:
    return count // 2**20
