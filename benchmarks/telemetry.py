"""What telemetry costs: bytes on a real wire in a day, p99 of inference while 90 days are replayed, the front's memory.

    python benchmarks/telemetry.py [--rounds N]

Everything is real: the daemon, its spool, mosquitto with TLS and an ACL in a network namespace of its own, and the wire
between them, whose own counters are read. A day is not waited for: its windows go out one after the other, and what a
ping costs is measured over a few. As root, with ip, iptables and mosquitto; docs/mqtt.md shows what was measured.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks import machine, models, processes, procfs, report
from benchmarks.budgets import MIB, Verdict
from benchmarks.load import GrpcClient, Meter
from benchmarks.models import REPO, Model
from benchmarks.servers import Edged
from edged.config import address
from edged.facts import Executed, Reading
from edged.pressure import telling
from edged.pressure.readings import Memory, Readings, Stall, Storage, Temperature
from edged.system.identity import Files
from edged.telemetry.aggregate import Aggregate
from edged.telemetry.messages import Happening, ServedModel, State
from edged.telemetry.mqtt import Mqtt, Options
from edged.telemetry.recorder import Recorder
from edged.telemetry.spool import Spool
from edged.telemetry.sync import Sync, Topics, will
from edged.telemetry.window import Window

sys.path.insert(0, str(REPO / "tests"))
from support.broker import Island, Mosquitto, Operator, Pki

DEVICE = "3f9c1f0de3c44f6e8f64b3a1f7a2c9d1"
TOPICS = Topics("shops", DEVICE, "intel-lowpower-detector")
MODELS = ("digits", "defects", "faces")
REQUESTS_PER_WINDOW = 300
WINDOWS = 288
LOOKS = 30
"""By the sensors, in a window."""
EVENTS = 12
STATES = 12
# A ping follows 15 min of silence: each message puts the next one off, by half of that on average.
PINGS = 86_400 // 900 - (WINDOWS // 12 + EVENTS + STATES) // 2
DAYS = 90

PATIENCE_S = 120.0
ROUND_S = 6.0
CALLERS = 4
# The shortest that the settings allow: a few pings in half a minute, instead of one in 15 minutes.
KEEP_ALIVE_S = 5


class Shore:
    """A broker on an island, an operator who listens, and the wire between devices and broker."""

    def __init__(self, folder: Path, island: Island, broker: Mosquitto, operator: Operator) -> None:
        self.folder = folder
        self.island = island
        self.broker = broker
        self.operator = operator
        island.count()

    def carried(self) -> int:
        """Bytes that went over the wire, both ways, with TLS, TCP and IP; frames differ with what the wire is."""
        return self.island.carried()

    def wait_rows(self, count: int) -> None:
        """Waits until so many windows and events have come to the operator."""
        self.operator.wait(lambda seen: len(seen.deliveries) >= count)


@contextmanager
def shore(folder: Path) -> Iterator[Shore]:
    """With everything below `folder`."""
    with (
        Island() as island,
        Mosquitto(folder / "broker", Pki(folder / "pki"), island) as broker,
        Operator(broker, folder / "operator") as operator,
    ):
        yield Shore(folder, island, broker, operator)


def fill(folder: Path, days: int) -> None:
    """A spool with so many days of windows of three busy models, and of events."""
    chance = random.Random(1)
    spool = Spool(folder, 8 * MIB, 0)
    middles = {model: chance.uniform(-6.5, -4) for model in MODELS}
    ready = [window(chance, middles) for _ in range(WINDOWS)]
    for _ in range(days):
        for number, each in enumerate(ready):
            spool.append_window(each)
            if number % (WINDOWS // EVENTS) == 0:
                text = f"revision {number}, variant int8, is ready"
                found = Happening(at_ms=number, severity="info", code="model_ready", subject="digits", message=text)
                spool.append_event(found, kept=False)
    spool.close()


def window(chance: random.Random, middles: Mapping[str, float]) -> Window:
    """Five minutes of three busy models, each with durations of its own that wander by a tenth or two."""
    aggregate = Aggregate(0.0, 0)
    for model, middle in middles.items():
        middle_now = middle + chance.uniform(-0.2, 0.2)
        for _ in range(REQUESTS_PER_WINDOW):
            queue_s, compute_s = chance.expovariate(2000), chance.lognormvariate(middle_now, 0.3)
            aggregate.add(Executed(model, 7, "int8", 1, (queue_s,), compute_s, 1_790_000_000_000))
    for _ in range(LOOKS):
        for fact in telling.facts(readings(chance)):
            aggregate.add(fact)
    aggregate.add(Reading("spool_used_bytes", chance.randrange(8 * MIB)))
    return aggregate.close(300.0, 300_000, clock_synchronized=True)


def readings(chance: random.Random) -> Readings:
    """What the sensors of such a device say at one look: it works, and waits for its disk now and then."""
    return Readings(
        load=chance.uniform(0.2, 0.5),
        temperatures=tuple(Temperature(name, chance.uniform(45, 65)) for name in ("cpu", "gpu", "nvme")),
        stalls={
            "cpu": Stall(chance.uniform(0, 5), 0.0),
            "memory": Stall(0.0, 0.0),
            "io": Stall(chance.uniform(0, 3), chance.uniform(0, 2)),
        },
        memory=Memory(4096 * MIB, chance.randrange(2000 * MIB, 2100 * MIB)),
        storage=Storage(32 * 1024 * MIB, chance.randrange(9000 * MIB, 9100 * MIB)),
    )


def state(level: str) -> State:
    """The state of such a device."""
    models = [
        ServedModel(
            name=name,
            revision=7,
            digest=f"{digest(name):064x}",
            variant="int8",
            state="ready",
            previous_revision=6,
            phase="idle",
        )
        for name in MODELS
    ]
    return State(
        device=TOPICS.device,
        fleet=TOPICS.fleet,
        hardware_class=TOPICS.hardware_class,
        version="1.0.0",
        engines={"onnxruntime": "1.20.1", "openvino": "2025.0.0"},
        os="edge-os 41.20260101",
        mode="serving",
        level=level,
        models=models,
        memory_mib=3905,
        accelerators=["intel-gpu"],
        epoch=1_790_000_000,
        sequence=104_711,
        architecture="x86_64",
        processors=4,
        kernel="6.12.0-200.fc41.x86_64",
        os_digest=f"sha256:{digest('booted'):064x}",
        os_staged=f"sha256:{digest('staged'):064x}",
        clock_synchronized=True,
    )


def digest(name: str) -> int:
    """A digest's worth of noise that is the same each time."""
    return random.Random(name).getrandbits(256)


async def day(on: Shore) -> list[tuple[str, int, int]]:
    """What went over the wire in a day: by what, how often, bytes."""
    folder = on.folder / "day"
    fill(folder, 1)
    files = on.broker.pki.identity(on.folder / "identity", DEVICE)
    options = Options(
        broker=address.broker(on.broker.url),
        device=DEVICE,
        username="",
        files=Files(files / "certificate.pem", files / "key.pem", files / "ca.pem"),
        keep_alive_s=KEEP_ALIVE_S,
        subscriptions=TOPICS.commands,
        will_topic=TOPICS.of("online"),
    )
    levels = iter(f"level {number}" for number in range(100))
    level = next(levels)
    recorder = Recorder(folder, 8 * MIB, 300, 2**30)
    changed = asyncio.Event()
    link = Mqtt(options, will, changed.set, lambda _message: None, print)
    sync = Sync(recorder, link, TOPICS, lambda: state(level), rows_per_minute=600, jitter_s=0, coarse=True)

    async def until(condition: Callable[[], bool]) -> int:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # acknowledgements are on their way
        return on.carried()

    def states() -> int:
        return sum(message.topic.endswith("/state") for message in on.operator.got)

    before = on.carried()
    link.start()
    running = asyncio.create_task(sync.run())
    try:
        await until(lambda: link.connected)
        sync.connection_changed()  # which sends the state, and rows after it
        sync.report(fine=False)
        await until(lambda: states() == 1 and sync.sent >= WINDOWS // 12 + EVENTS)
        silent = on.carried()
        rows = silent - before
        level = next(levels)
        sync.state_changed()
        one_state = await until(lambda: states() == 2) - silent
        began_s, quiet = time.monotonic(), on.carried()
        await asyncio.sleep(6.5 * KEEP_ALIVE_S)
        pings, spent_s = on.carried() - quiet, time.monotonic() - began_s
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await link.stop()
        await recorder.close()
    one_ping = pings / (spent_s // KEEP_ALIVE_S)
    return [
        ("a connection, windows by the hour, events", WINDOWS // 12 + EVENTS, rows),
        ("states", STATES - 1, (STATES - 1) * one_state),
        ("pings", PINGS, round(PINGS * one_ping)),
    ]


def device(on: Shore, name: str, smalls: list[Model], broker: str) -> Edged:
    """edged as an operator's fleet has it, the settings' defaults but for what a benchmark cannot wait for."""
    folder = on.folder / name
    folder.mkdir()
    edged = Edged(folder, smalls)
    root = folder / "root"
    on.broker.pki.identity(root / "var/lib/edged/identity", DEVICE)
    (root / "etc/edged").mkdir(parents=True)
    (root / "etc/edged/edged.toml").write_text(
        f'[device]\nname = "{DEVICE}"\nfleet = "shops"\n[mqtt]\nbroker = "{broker}"\njitter_s = 0\n'
    )
    return edged


def replayed(on: Shore, model: Model, rounds: int) -> list[tuple[float, float]]:
    """p99 in µs while 90 days are replayed and while nobody takes them, round by round."""
    edged = device(on, "replaying", [model], on.broker.url)
    spool = edged.folder / "root/var/lib/edged/telemetry"
    with tempfile.TemporaryDirectory(dir="/dev/shm") as quick:  # a disk would take minutes to sync each window
        fill(Path(quick) / "spool", DAYS)
        print(f"{DAYS} days offline: {sum(file.stat().st_size for file in (Path(quick) / 'spool').iterdir())} bytes")
        shutil.copytree(Path(quick) / "spool", spool)
    cores = processes.plan(both=True)
    load, found = GrpcClient(cores.load), []
    edged.start(cores.server)
    try:
        on.wait_rows(1)
        for number in range(2 * rounds):
            if number % 2 == 0:  # what is sent vanishes, for less long than the device would wait for an answer
                on.island.drop()
                time.sleep(1)
                quiet = load.run(edged.target(model), CALLERS, ROUND_S, Meter(edged.pid))
                on.island.heal()
                on.wait_rows(len(on.operator.deliveries) + 5)
            else:
                before = len(on.operator.deliveries)
                busy = load.run(edged.target(model), CALLERS, ROUND_S, Meter(edged.pid))
                rows = len(on.operator.deliveries) - before
                assert rows > ROUND_S, f"only {rows} rows were replayed"
                found.append((busy.p99_us, quiet.p99_us))
    finally:
        edged.end()
    return found


def front(on: Shore, model: Model, rounds: int) -> list[tuple[int, int]]:
    """PSS in bytes of the front with a broker and without one, round by round."""
    found = []
    for number in range(rounds):
        both = []
        for name, broker in (("with", on.broker.url), ("without", "")):
            edged = device(on, f"{name}-{number}", [model], broker)
            edged.start(processes.plan(both=True).server)
            try:
                if broker:
                    on.operator.wait(lambda seen, number=number: births(seen) > number)
                time.sleep(3)
                both.append(procfs.memories([edged.pid])[edged.pid].pss)
            finally:
                edged.end()
        found.append((both[0], both[1]))
    return found


def births(seen: Operator) -> int:
    """How often a device came."""
    return sum(each["online"] for each in seen.all("online"))


def main() -> int:
    """Prints the tables; 1 where a budget does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often what is compared is measured (5)")
    rounds = parser.parse_args().rounds
    processes.end_on_sigterm()
    out = report.console()
    report.machine(out, machine.read())
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as name:
        folder = Path(name)
        built = models.build(folder / "models", smalls=1)
        model = next(each for each in built.values() if each.name.startswith(models.SMALL))
        with shore(folder / "wire") as on:
            table = asyncio.run(day(on))
        for what, number, cost in table:
            print(f"{what:45} {number:5} {cost:8} bytes")
        with shore(folder / "memory") as on:
            memory = front(on, model, min(rounds, 3))
        for one, two in memory:
            print(f"front, PSS, connected {one / MIB:.1f} MiB, without a broker {two / MIB:.1f} MiB")
        with shore(folder / "replay") as on:
            p99 = replayed(on, model, rounds)
        for busy, quiet in p99:
            print(f"p99 while replaying {busy:8.0f} us, while not {quiet:8.0f} us")
    verdicts = [
        Verdict("a day on the wire, three models", "KiB", 100, sum(cost for _, _, cost in table) / 1024),
        Verdict("p99 while 90 days are replayed, by p99 without", "x", 1.05, median(one / two for one, two in p99)),
        Verdict("front, PSS, with MQTT over without", "MiB", 14, median(one - two for one, two in memory) / MIB),
    ]
    report.verdicts(out, verdicts)
    return int(not all(verdict.holds for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
