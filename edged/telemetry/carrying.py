"""Carries commands out: those of telemetry and models itself, the others where they belong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from edged.errors import Code, EdgedError
from edged.intents import Diagnostics, Done, Intent, LogLevel, Report, RestartModel, SetLogLevel
from edged.models import renewing
from edged.models.residency import Residency
from edged.telemetry.commands import RejectedError, Rejection
from edged.telemetry.orders import Order

Executor = Callable[[Intent], Awaitable[Done]]

_WHY = "it is restarted by a command"


class Carrying:
    """One for the daemon."""

    def __init__(
        self,
        residency: Residency,
        report: Callable[[bool], Awaitable[None]],
        diagnostics: Callable[[], Awaitable[dict[str, object]]],
        set_level: Callable[[LogLevel], None],
        hand_on: Callable[[Intent, Order], Awaitable[Done | None]],
        updates: Executor | None,
    ) -> None:
        """`hand_on` takes what concerns the operating system, `updates` what concerns revisions."""
        self._residency = residency
        self._report = report
        self._diagnostics = diagnostics
        self._set_level = set_level
        self._hand_on = hand_on
        self._updates = updates

    async def carry_out(self, intent: Intent, order: Order) -> Done | None:
        """Does it; None: it was handed on, and is answered later. Raises EdgedError, or RejectedError."""
        match intent:
            case Report(fine=fine):
                await self._report(fine)
                return Done("what is known is on its way")
            case Diagnostics():
                return Done("", await self._diagnostics())
            case SetLogLevel(level=level):
                self._set_level(level)
                return Done(f"the log's level is {level} until the next start or reload")
            case RestartModel(model=model):
                return Done(await self._restart(model))
        name = str(intent.__struct_config__.tag)
        if name.startswith("os_"):
            return await self._hand_on(intent, order)
        if self._updates is None:
            raise RejectedError(Rejection.UNSUPPORTED, f"this edged has nobody who carries out {name}")
        return await self._updates(intent)

    async def _restart(self, model: str) -> str:
        """Every revision of the model that is loaded, that which serves first."""
        route = self._residency.routes.get(model)
        if route is None:
            names = ", ".join(sorted(self._residency.routes)[:10]) or "none"
            raise EdgedError(Code.MODEL_NOT_FOUND, f"there is no model {model[:64]!r}", f"models here: {names}")
        serving = self._residency.get(model, route.serving)
        others = [each for each in self._residency.all() if each.name == model and each.steady and each is not serving]
        told = [f"revision {each.revision}: {await renewing.renew(each, _WHY)}" for each in (serving, *others)]
        return "; ".join(told)
