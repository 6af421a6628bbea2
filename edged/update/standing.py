"""Where the updates of all models stand, for whoever reports them."""

from __future__ import annotations

from edged.types import UpdateStanding
from edged.update.agent import Agent


def standings(agent: Agent) -> list[UpdateStanding]:
    """By model name."""
    found = []
    for model, course in sorted(agent.courses.items()):
        state = course.state
        about, previous = state.target or state.serving, state.previous
        found.append(
            UpdateStanding(
                model=model,
                phase=state.phase,
                revision=about.revision if about else 0,
                previous_revision=previous.revision if previous else 0,
                why=state.deferred,
            )
        )
    return found
