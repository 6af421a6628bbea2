"""Takes commands, holds each against who may command what, and carries out those of a fixed vocabulary."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from edged import clock, log
from edged.config.settings import Settings
from edged.errors import Code, EdgedError
from edged.intents import Intent, OsRollBack, OsSwitch, OsUpgrade
from edged.oshelper import trust
from edged.oshelper.mailbox import Mailbox, Request
from edged.oshelper.memory import FOLDER, Before, Memory, Order, Staged
from edged.system import bootc, deployment
from edged.system.os_requests import OsResult
from edged.telemetry.commands import Context, RejectedError, Rejection, intent_of, judge
from edged.telemetry.messages import Command
from edged.telemetry.verify import verify
from edged.types import Operator, Operators
from edged.update.policy import in_window

_log = log.get("os")

Status = Literal["accepted", "refused", "done"]

_RESTART_S = 60.0
# After a red boot greenboot restarts the device once its scripts for that have run, which edged-os.service waits for,
# or not at all; logind may hold the restart up for some seconds more (InhibitDelayMaxSec=).
_GOES_BACK_S = 300.0
_MAX_TEXT = 2000
_INTERRUPTED = "it was interrupted; os_status tells how far it came. Sign it anew where it is still wanted"


class _Verb(NamedTuple):
    """How a command is carried out, and what the next boot is of then; None: of what is booted."""

    do: Callable[[Intent], None]
    next: Callable[[bootc.Host], bootc.Entry | None]


# By it the service manager tells that the images of this boot were told.
_TOLD = "run/edged-os/told"

# Nothing else is carried out, whoever signed it.
_VOCABULARY: dict[type[Intent], _Verb] = {
    OsUpgrade: _Verb(lambda _: bootc.upgrade(), lambda host: host.coming),
    OsSwitch: _Verb(lambda intent: bootc.switch(intent.image), lambda host: host.coming),  # type: ignore[union-attr]
    OsRollBack: _Verb(lambda _: bootc.roll_back(), lambda host: host.going_back),
}


class Helper:
    """One run: what waits is taken, and carried out where it is time for that."""

    def __init__(self, settings: Settings, root: Path, built: datetime | None = None) -> None:
        """`settings` have their paths under `root` and the device's name in them. `built`: when the image was built."""
        folder = root / FOLDER
        self._settings = settings
        self._root = root
        self._boot = deployment.boot_id(root)
        self._red = deployment.red(root)
        self._trust = folder / "trust"
        self._built = built
        self._mailbox = Mailbox(Path(settings.paths.state))
        self._trusted_now = trust.time(self._trust, clock.wall(), built)
        self._memory = Memory(folder, self._now_ms())
        self._operators: Operators | None = None
        self._looked = False

    def run(self) -> None:
        """Does all that is to be done now. Raises OSError where root's own folder cannot be written."""
        waited = self._memory.waiting()
        for order in waited:
            if order.begun:
                self._look_back(order, Rejection.FAILED, _INTERRUPTED)
            elif order.staged and order.staged.boot != self._boot and not self._may_go_back():
                self._conclude(order, order.staged)
        remembered = {order.command.nonce for order in waited}
        for request in self._mailbox.requests():
            if request.name in remembered:  # the power went before it was removed, or undid that
                self._mailbox.take(request)
            else:
                self._take(request)
        under_way = self._may_go_back() or self._goes_on()
        for order in self._memory.waiting():
            if order.begun or order.staged or not self._is_time(order) or under_way:
                continue
            self._carry_out(order)
            under_way = self._goes_on()

    def tell_status(self) -> None:
        """Leaves what bootc says, where there is one, for the daemon to read. Raises EdgedError, OSError."""
        try:
            found = bootc.status()
        except EdgedError as error:
            if error.code is not Code.UNSUPPORTED:
                raise
            found = bootc.Host()
        self._mailbox.tell_status(bootc.images(found, clock.wall_ms(), self._boot))
        told = self._root / _TOLD
        told.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        told.touch()

    def _take(self, request: Request) -> None:
        try:
            command, operator = self._judged(request)
        except RejectedError as rejected:
            _log.warning("a command was rejected", name=request.name, code=rejected.code, why=rejected.text)
            self._say(_result(request.name, "", "refused", rejected.code, rejected.text))
            self._mailbox.take(request)
            return
        order = Order(command, operator.name, operator.key)
        self._memory.take(order, self._now_ms())  # before it is gone from the folder: else a kill here would lose it
        if not self._mailbox.take(request):
            self._memory.end(order)
            return
        window = self._settings.update.window
        text = f"it waits for the maintenance window {window}" if window else "it is carried out now"
        if self._may_go_back():
            text = (
                "this boot did not pass its check: it waits for some minutes, in which greenboot may restart the device"
            )
        self._say(_result(command.nonce, command.command, "accepted", text=text))

    def _judged(self, request: Request) -> tuple[Command, Operator]:
        """The command and who signed it. Raises RejectedError."""
        self._learn_operators()
        device = self._settings.device
        context = Context(
            fleet=device.fleet,
            device=device.name,
            hardware_class=device.hardware_class,
            now_ms=self._now_ms(),
            made_ms=self._memory.made_ms,
            operators=self._operators,
        )
        verdict = judge(request.data, context, verify)
        command = verdict.command
        if command is None:
            raise RejectedError(verdict.code or Rejection.NOT_VERIFIED, verdict.text)
        if type(intent_of(command)) not in _VOCABULARY:
            text = f"{command.command} is not for the operating system"
            raise RejectedError(Rejection.UNSUPPORTED, text)
        if command.nonce != request.name:
            raise RejectedError(Rejection.MALFORMED, "it was handed over under another name than its nonce")
        if self._memory.seen(command.nonce):
            text = f"nonce {command.nonce} was used before; sign the command anew"
            raise RejectedError(Rejection.REPLAYED, text)
        if self._memory.full(self._now_ms()):
            text = "too many commands of the last day are remembered; wait until they have expired"
            raise RejectedError(Rejection.NOT_REMEMBERED, text)
        known = self._operators.operators if self._operators else ()
        return command, next(each for each in known if each.name == verdict.operator)

    def _learn_operators(self) -> None:
        """Once in a run. Raises RejectedError where it cannot be told who may command."""
        if self._looked:
            return
        try:
            found = trust.operators(self._settings, self._trust, clock.wall(), self._built)
        except EdgedError as error:
            self._trusted_now = trust.time(self._trust, clock.wall(), self._built)
            text = f"who may command cannot be told: {error}"
            raise RejectedError(Rejection.NOT_VERIFIED, text) from error
        self._operators, self._trusted_now = found
        self._looked = True

    def _may_go_back(self) -> bool:
        """greenboot found this boot red and may be about to restart the device: staging now could remove the deployment
        that it goes back to, and what became of an order the next boot tells."""
        return self._red is not None and clock.monotonic() < self._red.at_s + _GOES_BACK_S

    def _is_time(self, order: Order) -> bool:
        """Whether an order may be carried out now; one that does not hold any more is refused."""
        try:
            self._learn_operators()
        except RejectedError as rejected:
            _log.warning("a command goes on waiting", nonce=order.command.nonce, why=rejected.text)
        try:
            self._check(order)
        except RejectedError as rejected:
            self._end(order, "refused", rejected.code, rejected.text)
            return False
        return self._looked and self._in_window()

    def _carry_out(self, order: Order) -> None:
        """Carries an order out as far as that goes without a restart."""
        intent, name = intent_of(order.command), order.command.command
        _log.info("a command is carried out", command=name, operator=order.operator, nonce=order.command.nonce)
        try:
            rolls_back = isinstance(intent, OsRollBack)
            before = Before(self._boot, bootc.status().rollback_queued) if rolls_back else None
            order = self._memory.begin(order, before)
            _VOCABULARY[type(intent)].do(intent)
        except EdgedError as error:
            _log.error("a command failed", command=name, why=str(error))
            code = Rejection.UNSUPPORTED if error.code is Code.UNSUPPORTED else Rejection.FAILED
            self._look_back(order, code, str(error))
        else:
            self._memory.stage(order, Staged(self._boot))

    def _goes_on(self) -> bool:
        """Leads what bootc has done in this boot on to the restart; says whether anything is under way, so that nothing
        else may be begun: it waits for the restart, or what came of it cannot be told yet."""
        for order in self._memory.waiting():
            if order.staged and order.staged.boot == self._boot:
                self._lead_on(order, order.staged)
        return any(order.begun or order.staged for order in self._memory.waiting())

    def _lead_on(self, order: Order, staged: Staged) -> None:
        if not staged.name:
            try:
                found = bootc.status()
            except EdgedError as error:
                _log.warning("what a command had staged cannot be told yet", nonce=order.command.nonce, why=str(error))
                return
            entry = _VOCABULARY[type(intent_of(order.command))].next(found)
            if entry is None:
                text = f"there is nothing newer than {found.booted}" if found.booted else "nothing has changed"
                self._end(order, "done", text=text)
                return
            staged = Staged(self._boot, entry.name, str(entry))
            order = self._memory.stage(order, staged)
            when = "now" if self._in_window() else f"in the maintenance window {self._settings.update.window}"
            self._tell(order, f"the device restarts into {staged.text} {when}")
        self._restart(order, staged)

    def _in_window(self) -> bool:
        return in_window(self._settings.update.window, f"{clock.wall().astimezone():%H:%M}")

    def _check(self, order: Order) -> None:
        """Whether an order still holds, as far as that can be told. Raises RejectedError."""
        command = order.command
        if command.expires_ms <= self._now_ms():
            window = self._settings.update.window
            when = f"the maintenance window {window}" if window else "it could be carried out"
            text = f"it expired before {when}; sign it anew for longer"
            raise RejectedError(Rejection.EXPIRED, text)
        if self._looked and not self._may(order):
            text = f"operator {order.operator} may not {command.command} any more; operators.json has changed meanwhile"
            raise RejectedError(Rejection.NOT_ALLOWED, text)

    def _may(self, order: Order) -> bool:
        """Whether the operators known now would let it in."""
        hardware_class = self._settings.device.hardware_class
        return any(
            (each.name, each.key) == (order.operator, order.key)
            and order.command.command in each.may
            and (not each.hardware_classes or hardware_class in each.hardware_classes)
            for each in (self._operators.operators if self._operators else ())
        )

    def _end(self, order: Order, status: Status, code: str = "", text: str = "") -> None:
        self._say(_result(order.command.nonce, order.command.command, status, code, text))
        self._memory.end(order)

    def _tell(self, order: Order, text: str) -> None:
        """Tells how far an order is that goes on."""
        self._say(_result(order.command.nonce, order.command.command, "accepted", text=text))

    def _say(self, result: OsResult) -> None:
        """A result that cannot be left costs nothing else: the daemon's folder is not to be relied on."""
        try:
            self._mailbox.answer(result)
        except OSError as error:
            _log.warning("a result cannot be left", nonce=result.nonce, why=error.strerror)

    def _restart(self, order: Order, staged: Staged) -> None:
        """Has the device restart, where it is time: the window may have closed since it opened for the download.

        Requests under way are drained by the daemon's own stop. The next boot tells what became of it.
        """
        if not self._in_window():
            return
        order = self._memory.stage(order, msgspec.structs.replace(staged, asked=True))
        _log.info("the device restarts", into=staged.text)
        try:
            done = subprocess.run(["systemctl", "--no-block", "reboot"], check=False, timeout=_RESTART_S)  # noqa: S607 - the unit sets the path
            why = f"systemctl ended with status {done.returncode}" if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
        if why:
            _log.error("the device cannot be restarted", why=why)
            self._memory.stage(order, staged)
            text = f"{staged.text} is staged, and the device cannot be restarted ({why}); it is tried again"
            self._tell(order, text)

    def _look_back(self, order: Order, code: str, text: str) -> None:
        """An order was begun, and this was killed or bootc failed: refuses it with `code` and `text`, unless it is a
        rollback that bootc has done after all. Done anew, that would be taken back, by whoever signs it again too."""
        before = order.before
        if before is not None and before.boot == self._boot:
            try:
                found = bootc.status()
            except EdgedError as error:
                _log.warning("what a command has done cannot be told yet", nonce=order.command.nonce, why=str(error))
                return
            if found.rollback_queued != before.rollback_queued:
                self._memory.stage(order, Staged(self._boot))
                return
        self._end(order, "refused", code, text)

    def _conclude(self, order: Order, staged: Staged) -> None:
        """The device has restarted since: what runs now is what became of the order."""
        if not staged.name:  # a rollback that was done anew could undo what is booted
            self._end(order, "refused", Rejection.FAILED, _INTERRUPTED)
            return
        try:
            found = bootc.status()
        except EdgedError as error:
            _log.warning("what became of a command cannot be told yet", nonce=order.command.nonce, why=str(error))
            return
        booted = found.booted
        if booted is not None and booted.name == staged.name:
            self._end(order, *_verdict(booted, self._red))
            return
        rolled_back = isinstance(intent_of(order.command), OsRollBack)
        if not staged.asked and not rolled_back:  # a rollback is not lost, and done anew it could be taken back
            order = self._memory.stage(order, None)
            text = f"the device started without {staged.text} before it was asked to restart into it; it is staged anew"
            self._tell(order, text)
            return
        undone = ", or a rollback was queued before and bootc has taken it back"
        undone = undone if rolled_back and found.composefs else ""  # with OSTree it would have been told beforehand
        text = (
            f"the device runs {booted or 'something else'} and not {staged.text}: that did not start or did not pass "
            f"its boot check, or the power went while the device shut down{undone}; see `edgectl boot evidence --show` "
            "and `journalctl --boot=-1` on the device"
        )
        self._end(order, "refused", Rejection.FAILED, text)

    def _now_ms(self) -> int:
        return _ms(clock.trusted(clock.wall(), self._trusted_now))


def refuse(state: Path, why: str) -> None:
    """Where nothing can be carried out, whoever hands something over is told so; `state` is the daemon's folder."""
    mailbox = Mailbox(state)
    for request in mailbox.requests():
        with contextlib.suppress(OSError):
            mailbox.answer(_result(request.name, "", "refused", Rejection.FAILED, why))
        mailbox.take(request)


def _verdict(booted: bootc.Entry, red: deployment.Boot | None) -> tuple[Status, str, str]:
    """What an order has come to that led to what is booted."""
    if red is None:
        return "done", "", f"the device runs {booted}"
    text = (
        f"the device runs {booted}, which did not pass its boot check, and nothing has gone back by itself: {red.why}. "
        "os_rollback goes back; os_upgrade and os_switch replace what it would go back to"
    )
    return "refused", Rejection.FAILED, text


def _result(nonce: str, command: str, status: Status, code: str = "", text: str = "") -> OsResult:
    at_ms = clock.wall_ms()
    return OsResult(nonce=nonce, command=command, status=status, code=code, text=text[:_MAX_TEXT], at_ms=at_ms)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
