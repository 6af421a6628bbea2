"""One row of the comparison: a model, a way to ask, so many callers; and what each server needed, round by round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec

from benchmarks import engine
from benchmarks.counters import Counters
from benchmarks.load import Generator, Meter
from benchmarks.measure import Sample
from benchmarks.models import Model
from benchmarks.processes import Cores
from benchmarks.servers import Server, Target

# Callers at once, by model. Frames of 6 MB come from one camera.
CALLERS = {"identity": (1, 16), "mlp": (1, 16), "digits": (1, 16), "camera": (1,), "convnet": (1, 16)}


class Row(msgspec.Struct, frozen=True):
    """Samples by server, in the order of the rounds."""

    model: str
    load: str
    callers: int
    samples: dict[str, list[Sample]]
    counted: dict[str, Counters]
    """What servers that tell have counted meanwhile, warming up included."""

    @property
    def problems(self) -> list[str]:
        """What went wrong, a line each."""
        found = []
        for server, samples in self.samples.items():
            failed = sum(sample.failed for sample in samples)
            answered = sum(sample.answered for sample in samples)
            why = next((sample.problem for sample in samples if sample.problem), "")
            if failed or why:
                found.append(f"{server}: {failed} failed, {answered} answered: {why}")
            counted = self.counted.get(server)
            if counted and (counted.failed or counted.ok < answered):
                found.append(
                    f"{server} itself counted {counted.ok} answered, {counted.failed} failed and "
                    f"{counted.refused} refused, where {answered} answers came"
                )
        return found


class Plan(msgspec.Struct, frozen=True):
    """How rows are measured."""

    rounds: int
    seconds: float
    engine_cores: Cores


def measure(model: Model, servers: Sequence[Server], generators: Sequence[Generator], plan: Plan) -> Iterator[Row]:
    """The rows of one model."""
    for generator in generators:
        if generator.suits(model):
            for callers in CALLERS[model.name]:
                with_engine = generator is generators[0] and callers == 1
                yield _row(model, servers, generator, callers, plan, with_engine=with_engine)


def _row(
    model: Model, servers: Sequence[Server], generator: Generator, callers: int, plan: Plan, *, with_engine: bool
) -> Row:
    """Asks each server in turn, round after round; the engine alone takes its turn too."""
    contenders: dict[str, Callable[[], Sample]] = {
        server.name: partial(_ask, server, server.target(model), generator, callers, plan.seconds) for server in servers
    }
    if with_engine:
        contenders[engine.NAME] = partial(engine.sample, model, plan.seconds, plan.engine_cores)
    before = _counted(servers, model)
    samples: dict[str, list[Sample]] = {name: [] for name in contenders}
    for _ in range(plan.rounds):
        for name, sample in contenders.items():
            samples[name].append(sample())
    after = _counted(servers, model)
    counted = {name: after[name] - before[name] for name in after}
    return Row(model.name, generator.name, callers, samples, counted)


def _ask(server: Server, target: Target, generator: Generator, callers: int, seconds: float) -> Sample:
    meter = Meter(server.pid)
    return meter.sample(generator.run(target, callers, seconds, meter))


def _counted(servers: Sequence[Server], model: Model) -> dict[str, Counters]:
    return {server.name: counted for server in servers if (counted := server.counted(model))}
