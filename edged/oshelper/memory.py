"""What the helper remembers, in a folder that is root's alone: commands seen, and those that wait or are under way."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from edged import durable
from edged.telemetry.messages import Command

FOLDER = "var/lib/edged-os"

_NAME = "memory.json"
# There while something waits: by it the service manager tells whether there is anything to start this for.
_MARK = "waiting"
# A command is remembered for a day at most; so many of them come from no honest operator.
_MOST_NONCES = 4096


class Staged(msgspec.Struct, frozen=True):
    """What the device is to restart into for an order."""

    boot: str
    """The kernel's name for the boot in which it was staged."""
    name: str = ""
    """As bootc tells a deployment from others: `bootc.Entry.name`. Empty until bootc has said what it staged."""
    text: str = ""
    """For people."""
    asked: bool = False
    """The device was asked to restart into it. OSTree keeps what is staged in /run until an orderly shutdown
    (ostree-finalize-staged.service): it is lost where the power goes before."""


class Before(msgspec.Struct, frozen=True):
    """What bootc said before it was asked to roll back."""

    boot: str
    """The kernel's name for the boot in which it was."""
    rollback_queued: bool


class Order(msgspec.Struct, frozen=True):
    """A command that was found to be in order, to be carried out in the maintenance window."""

    command: Command
    operator: str
    key: str
    """The operator's, by which it was found to be in order."""
    begun: bool = False
    """It was begun and not ended: the power went, or this process."""
    before: Before | None = None
    """Of a rollback that was begun: by it is told whether it was done."""
    staged: Staged | None = None
    """It was carried out as far as that goes without a restart."""


class _Content(msgspec.Struct):
    made_ms: int
    nonces: dict[str, int]
    waiting: dict[str, Order]


class Memory:
    """Each change is one durable write."""

    def __init__(self, folder: Path, now_ms: int) -> None:
        """Reads what is there. Where nothing can be read it begins anew, and says since when: `made_ms`."""
        self._path = folder / _NAME
        self._mark = folder / _MARK
        self._content = _Content(now_ms, {}, {})
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            self._content = msgspec.json.decode(self._path.read_bytes(), type=_Content)
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write()

    @property
    def made_ms(self) -> int:
        """Since when every command is remembered."""
        return self._content.made_ms

    def full(self, now_ms: int) -> bool:
        """No further command can be remembered before others have expired."""
        return sum(ends > now_ms for ends in self._content.nonces.values()) >= _MOST_NONCES

    def seen(self, nonce: str) -> bool:
        """Whether a command of this nonce came before."""
        return nonce in self._content.nonces

    def waiting(self) -> list[Order]:
        """What is to be carried out, in the order in which it came."""
        return list(self._content.waiting.values())

    def take(self, order: Order, now_ms: int) -> None:
        """Remembers a command, and that it waits. Raises OSError.

        What has expired is forgotten where there is no room, and no sooner: a clock that was wrong for a while must
        not make room for replays.
        """
        content = self._content
        if len(content.nonces) >= _MOST_NONCES:
            content.nonces = {nonce: ends for nonce, ends in content.nonces.items() if ends > now_ms}
        content.nonces[order.command.nonce] = order.command.expires_ms
        content.waiting[order.command.nonce] = order
        self._write()

    def begin(self, order: Order, before: Before | None) -> Order:
        """It is carried out now. Gives it as it stands. Raises OSError."""
        order = msgspec.structs.replace(order, begun=True, before=before)
        self._content.waiting[order.command.nonce] = order
        self._write()
        return order

    def stage(self, order: Order, staged: Staged | None) -> Order:
        """It waits for the device's restart now; without `staged` it is to be carried out anew. Gives it as it stands.

        Raises OSError.
        """
        order = msgspec.structs.replace(order, begun=False, staged=staged)
        self._content.waiting[order.command.nonce] = order
        self._write()
        return order

    def end(self, order: Order) -> None:
        """It waits no more. Raises OSError."""
        del self._content.waiting[order.command.nonce]
        self._write()

    def _write(self) -> None:
        if self._content.waiting:
            self._mark.touch(0o600)
        durable.write(self._path, msgspec.json.encode(self._content))
        if not self._content.waiting:
            self._mark.unlink(missing_ok=True)
