"""Carries out what commands ask of the models of this device."""

from __future__ import annotations

from edged.errors import Code, EdgedError
from edged.intents import Done, Hold, Install, Intent, Pin, Refresh, Release, RollBack, Unpin
from edged.update.administration import Administration
from edged.update.agent import Agent

_OWNER = "a command"


class Obeying:
    """The agent's side of commands.

    A second one changes nothing more, but for a hold, of which each is one more; the same command twice is told from
    its nonce before it comes here. One that is carried out again, since edged was killed under it, is a second one too.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._administration = Administration(agent)

    async def carry_out(self, intent: Intent) -> Done:
        """Does what is asked. Raises EdgedError: unsupported, or why it cannot be done."""
        match intent:
            case Refresh():
                await self._agent.look_at(None, begin=True)
                return Done(self._agent.looking.last_look)
            case Install(model=model, revision=revision) | Pin(model=model, revision=revision):
                await self._administration.pin(model, revision, "command")
                return Done(f"model {model} goes to revision {revision} and stays there, whatever the plan says")
            case Unpin(model=model):
                await self._administration.unpin(model)
                return Done(f"model {model} follows the plan")
            case RollBack(model=model, revision=revision):
                back = await self._administration.roll_back(model, revision)
                return Done(f"model {model} goes back to revision {back}")
            case Hold(model=model, seconds=seconds):
                return await self._hold(model, seconds)
            case Release(name=name):
                return await self._release(name)
        raise EdgedError(Code.UNSUPPORTED, f"nobody here carries out {intent.__struct_config__.tag}")

    async def _hold(self, model: str, seconds: int) -> Done:
        self._agent.check_model(model)
        longest_s = self._agent.shop.settings.hold_max_s
        if seconds > longest_s:
            text = f"a hold of {seconds} s is not allowed"
            raise EdgedError(Code.INVALID_ARGUMENT, text, f"ask for at most {longest_s:g} s (update.hold_max_s)")
        lease = await self._agent.holds.take(_OWNER, model, seconds)
        return Done(f"model {model} does not change for {seconds} s", {"lease": lease.id})

    async def _release(self, name: str) -> Done:
        if await self._agent.holds.release(name):
            await self._agent.reconsider()
            return Done(f"the hold {name} has ended")
        released = await self._administration.release(name)
        found = ", ".join(f"{each.model} revision {each.revision}" for each in released)
        return Done(f"may be tried again: {found}")
