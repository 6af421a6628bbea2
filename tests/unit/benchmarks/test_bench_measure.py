"""What the benchmarks make of what they see: /proc, h2load's words, rounds, budgets."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import budgets, h2load, procfs, report
from benchmarks.counters import Counters
from benchmarks.footprint import Footprint, Held, Idle, Worker
from benchmarks.measure import Sample, Spread, percentile, ratios, spread
from benchmarks.processes import Cores, Plan
from benchmarks.procfs import Memory
from benchmarks.rows import Row
from benchmarks.servers import Target

MIB = 1024 * 1024
TICKS = procfs.TICKS_PER_S


class Proc:
    """A /proc that a test lays out; times are in seconds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "self").mkdir()  # something that is no process

    def put(
        self,
        pid: int,
        parent: int,
        *,
        name: str = "python",
        own_s: tuple[float, float] = (0.0, 0.0),
        children_s: tuple[float, float] = (0.0, 0.0),
        threads: dict[int, tuple[int, int, int]] | None = None,
    ) -> None:
        """`threads`: voluntary switches, the others, and ns on a core."""
        folder = self.root / str(pid)
        if folder.exists():
            self.end(pid)
        folder.mkdir()
        times = " ".join(str(round(each * TICKS)) for each in (*own_s, *children_s))
        (folder / "stat").write_text(f"{pid} ({name}) S {parent} 1 1 0 -1 0 0 0 0 0 {times} 20 0 1 0 4711 0 0\n")
        for thread, (voluntary, forced, ran_ns) in (threads or {pid: (0, 0, 0)}).items():
            task = folder / "task" / str(thread)
            task.mkdir(parents=True, exist_ok=True)
            task.joinpath("status").write_text(
                f"Name:\t{name}\nvoluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{forced}\n"
            )
            task.joinpath("schedstat").write_text(f"{ran_ns} 0 5\n")

    def end(self, pid: int) -> None:
        """The process is gone."""
        shutil.rmtree(self.root / str(pid))


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def sample(cpu_us: float, answered: int = 100, **more: object) -> Sample:
    return Sample(answered=answered, elapsed_s=2.0, cpu_us=cpu_us, **more)


def test_a_percentile_is_one_of_the_values_and_as_many_lie_at_or_below_it():
    values = [float(each) for each in range(1, 101)]
    assert [percentile(values, percent) for percent in (0, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    assert percentile([7.0], 99) == 7
    assert percentile([1.0, 2.0, 3.0], 50) == 2
    assert percentile([], 50) == 0


def test_the_spread_of_rounds_is_their_median_and_both_ends():
    assert spread([3.0, 1.0, 10.0]) == Spread(3, 1, 10)
    assert spread([1.0, 2.0]) == Spread(1.5, 1, 2)
    assert spread([]) is None


def test_ratios_are_taken_round_by_round():
    """A round in which the whole machine was three times slower changes no ratio."""
    ours, theirs = [sample(200), sample(600), sample(220)], [sample(100), sample(300), sample(100)]
    assert ratios(ours, theirs) == Spread(2, 2, 2.2)


def test_a_round_without_answers_gives_no_ratio():
    assert ratios([sample(0, answered=0), sample(300)], [sample(100), sample(100)]) == Spread(3, 3, 3)
    assert ratios([sample(300)], []) is None


def test_the_name_of_a_process_may_hold_anything(proc: Proc):
    proc.put(10, 1, name="a) R 1 (b", own_s=(1.0, 0.5))
    found = procfs.stat(10, proc.root)
    assert found == procfs.Stat("a) R 1 (b", 1, round(1.5 * TICKS), 0, 4711)
    assert procfs.stat(11, proc.root) is None


def test_a_tree_is_a_process_with_all_below_it_and_nothing_else(proc: Proc):
    for pid, parent in ((10, 1), (30, 10), (20, 10), (40, 30), (50, 1)):
        proc.put(pid, parent)
    assert procfs.tree(10, proc.root) == [10, 20, 30, 40]


def test_what_a_child_used_counts_on_when_it_has_ended(proc: Proc):
    proc.put(10, 1, own_s=(1.0, 1.0), threads={10: (5, 1, 100), 11: (7, 0, 200)})
    proc.put(20, 10, own_s=(0.5, 0.0))
    before = procfs.snapshot(10, proc.root)
    proc.end(20)
    proc.put(10, 1, own_s=(1.5, 1.25), children_s=(0.75, 0.25), threads={10: (9, 2, 150), 12: (3, 0, 50)})
    spent = procfs.spent(before, procfs.snapshot(10, proc.root))
    assert spent.cpu_s == pytest.approx(0.75 + 0.5)
    assert spent.cpu_s_of == {10: pytest.approx(0.75)}
    assert spent.voluntary == {(10, 10): 4, (10, 12): 3}
    assert spent.switches == (4 + 1) + 3
    assert spent.running_ns == {(10, 10): 50, (10, 12): 50}


def test_memory_is_read_of_those_that_are_there(proc: Proc):
    proc.put(10, 1)
    (proc.root / "10/smaps_rollup").write_text(
        "00400000-7fff0000 ---p 00000000 00:00 0    [rollup]\nRss:  900 kB\nPss:  300 kB\nPss_Dirty:  9 kB\n"
        "Private_Clean:  40 kB\nPrivate_Dirty:  200 kB\n"
    )
    assert procfs.memories([10, 11], proc.root) == {10: Memory(300 * 1024, 240 * 1024)}


TARGET = Target("unix:/run/s", "/a.B/C", "/tmp/request", 46)
TRAFFIC = "finished in 1.00s\ntraffic: 1KB (999) total, 10B (10) headers (space savings 96.27%), 1KB ({}) data\n"


def test_h2load_is_told_of_a_socket_or_an_address():
    command = h2load.arguments(TARGET, 16, 0.5, Path("/b"), Path("/l"))
    assert command[-2:] == ["--base-uri=unix:/run/s", "http://localhost/a.B/C"]
    assert {"--duration=500ms", "--max-concurrent-streams=16"} < set(command)
    tcp = Target("127.0.0.1:8001", "/a.B/C", "/tmp/request", 46)
    assert h2load.arguments(tcp, 1, 2, Path("/b"), Path("/l"))[-1] == "http://127.0.0.1:8001/a.B/C"


def test_h2load_answers_are_counted_from_its_log():
    log = "1795239174012392\t200\t2470\n1795239174012394\t200\t2690\n1795239174012395\t503\t9\n3\t200\t2680\n"
    seen = h2load.answers(TRAFFIC.format(3 * 51), log, 46, 2.0)
    assert (seen.answered, seen.p50_us, seen.p99_us, seen.elapsed_s) == (3, 2680, 2690, 2)


def test_h2load_answers_without_their_bytes_are_errors():
    log = "1\t200\t2470\n2\t200\t2690\n"
    seen = h2load.answers(TRAFFIC.format(51), log, 46, 2.0)
    assert (seen.answered, seen.failed) == (0, 2)
    assert "51 bytes" in seen.problem


def row(counted: Counters, **edged: object) -> Row:
    samples = {"floor": [sample(100), sample(110)], "edged": [sample(200, **edged), sample(200)]}
    return Row("identity", "grpc", 16, samples, {"edged": counted})


def test_a_row_whose_server_agrees_has_no_problems():
    assert row(Counters(ok=230, batches=23)).problems == []


def test_a_row_says_when_the_server_counted_otherwise():
    (problem,) = row(Counters(ok=150, failed=3, batches=23)).problems
    assert "150 answered, 3 failed" in problem
    assert "200 answers came" in problem


def test_a_row_says_what_failed():
    (problem,) = row(Counters(ok=230, batches=23), failed=2, problem="UNAVAILABLE: gone").problems
    assert problem == "edged: 2 failed, 200 answered: UNAVAILABLE: gone"


def test_lines_compare_with_the_floor():
    floor, edged = report.lines(row(Counters(ok=230, batches=23)), "floor")
    assert floor.ratio is None
    assert floor.requests_per_batch is None
    assert edged.cpu_us == Spread(200, 200, 200)
    assert edged.ratio == Spread(pytest.approx((2 + 200 / 110) / 2), pytest.approx(200 / 110), 2)
    assert edged.per_s == Spread(50, 50, 50)
    assert edged.requests_per_batch == 10


def footprint(**more: object) -> Footprint:
    small, large = Memory(5 * MIB, 4 * MIB), Memory(40 * MIB, 30 * MIB)
    workers = [Worker(f"small-{number}", MIB, large if number == 1 else small) for number in (1, 2, 3)]
    held = [Held(models=count, front=large, template=None, workers=workers[:count], others={}) for count in (1, 3)]
    idle = [Idle("front", 0.25, 2.0, 1.5, "timer"), Idle("worker small-1", 0.25, 0.0, 0.0, "python")]
    return Footprint(**{"ready_s": [0.5, 3.0, 0.6], "idle": idle, "held": held, **more})


def test_budgets_are_judged_one_by_one():
    verdicts = budgets.judge(footprint())
    assert [(verdict.measured, verdict.holds) for verdict in verdicts] == [
        (0.6, True),
        (40, True),
        (None, None),
        (3, True),
        (0.5, False),
        (1.5, False),
    ]
    assert verdicts[-1].note == "thread timer of front"


def test_a_template_is_judged_when_there_is_one():
    held = [Held(1, Memory(1, 1), Memory(61 * MIB, 1), [], {}), footprint().held[-1]]
    template = next(verdict for verdict in budgets.judge(footprint(held=held)) if "template" in verdict.what)
    assert (template.measured, template.holds) == (61, False)


def test_servers_and_load_share_no_core_where_there_are_two(monkeypatch: pytest.MonkeyPatch):
    from benchmarks import processes

    def plan(cores: set[int], *, both: bool) -> Plan:
        monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: cores)
        return processes.plan(both=both)

    assert plan({0, 1}, both=False) == Plan(Cores({0}), Cores({1}))
    assert plan({0, 1}, both=True) == Plan(Cores({0, 1}), Cores({1}))
    assert plan({3}, both=False) == Plan(Cores({3}), Cores({3}))
