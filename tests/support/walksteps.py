"""Steps of a walk, drawn by chance."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from edged.types import Limits
from edged.update.machine import Phase
from support.published import MODELS, NATURES
from support.walks import Step

_REVISIONS = {model: [revision for name, revision in NATURES if name == model] for model in MODELS}
_UNPUBLISHED = 77

_FAULTS: dict[str, Sequence[Any]] = {
    "fetch": ("", "", "", "download_failed", "digest_mismatch", "storage_full", "damages", "hangs"),
    "fetch_s": (0.0, 0.5, 5.0),
    "load_s": (0.0, 0.2, 5.0),
    "stop_s": (0.0, 0.1, 2.0, 8.0),
    "release_s": (0.0, 0.1, 3.0, 8.0),
    "job_s": (0.0, 0.0, 0.05),
    "capacity": (100, 3, 2, 1, 1, 0),
    "journal_fails": ("", "", "rows", "markers"),
}
_PHASES = (Phase.FETCHING, Phase.TRIAL, Phase.SHADOW, Phase.SOAKING, Phase.SOAKING, Phase.COMMITTED, Phase.IDLE)
_LIMITS = (
    Limits(),
    Limits(background_paused=True),
    Limits(save_space=True),
    Limits(save_space=True, journal_only=True),
)


def _model(chance: random.Random) -> str:
    return chance.choices(MODELS, (5, 2, 1))[0]


def _revision(chance: random.Random, model: str) -> int:
    good = [revision for revision in _REVISIONS[model] if revision <= 3]
    return chance.choice([*_REVISIONS[model], *good, *good, *good])


def _of_model(chance: random.Random) -> tuple[Any, ...]:
    return (_model(chance),)


def _of_revision(chance: random.Random) -> tuple[Any, ...]:
    model = _model(chance)
    return model, _UNPUBLISHED if chance.random() < 0.02 else _revision(chance, model)


def _of_either(chance: random.Random) -> tuple[Any, ...]:
    model, revision = _of_revision(chance)
    return model, chance.choice((0, revision))


def _nothing(_: random.Random) -> tuple[Any, ...]:
    return ()


_STEPS: dict[str, tuple[int, Callable[[random.Random], tuple[Any, ...]]]] = {
    "turns": (20, lambda chance: (chance.choice((1, 2, 3, 5, 8, 13, 21, 40)),)),
    "sleep": (20, lambda chance: (chance.choice((0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 20.0, 40.0)),)),
    "until": (14, lambda chance: (_model(chance), chance.choice(_PHASES))),
    "ask": (14, lambda chance: (_model(chance), chance.random() < 0.9)),
    "plan": (10, lambda chance: (*_of_revision(chance), chance.random() < 0.8)),
    "unplan": (1, _of_model),
    "floor": (1, lambda chance: (_model(chance), chance.randint(1, 3))),
    "look": (6, _nothing),
    "nudge": (2, _nothing),
    "pin": (8, _of_revision),
    "unpin": (4, _of_model),
    "back": (5, _of_either),
    "release": (3, _of_model),
    "hold": (3, _of_model),
    "let_go": (2, _nothing),
    "load": (2, _of_either),
    "unload": (2, _of_model),
    "renew": (2, _of_model),
    "crash": (6, lambda chance: (chance.randint(0, 5),)),
    "press": (5, lambda chance: (chance.choice(_LIMITS),)),
    "fault": (9, _nothing),
    "break": (3, _of_revision),
    "damage": (2, _of_revision),
    "engine": (1, _nothing),
    "cut": (3, _nothing),
    "restart": (2, _nothing),
}


_ALWAYS = ("turns", "sleep", "until", "plan", "look", "pin")


def draw(chance: random.Random, count: int) -> list[Step]:
    """So many steps. Each walk does some things often and others never, so that one is not always in another's way."""
    names = list(_STEPS)
    often = {name: chance.choice((1, 2) if name in _ALWAYS else (0, 0, 1, 2, 4)) for name in names}
    weights = [_STEPS[name][0] * often[name] for name in names]
    faults = [*chance.sample(list(_FAULTS), chance.randint(1, 3)), *(["capacity"] * chance.choice((0, 0, 3)))]
    steps: list[Step] = [("fault", ("exclusive", chance.random() < 0.3)), ("sleep", (2.0,))]
    for name in chance.choices(names, weights, k=count):
        fault = chance.choice(faults)
        steps.append((name, (fault, chance.choice(_FAULTS[fault])) if name == "fault" else _STEPS[name][1](chance)))
    return steps
