"""The spool: a cap that holds, totals that stay exact, numbers that are never given twice."""

from __future__ import annotations

import random
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from edged.facts import Executed, Reading
from edged.telemetry.aggregate import Aggregate
from edged.telemetry.messages import Event, Happening, Lost, Telemetry
from edged.telemetry.spool import LEAST_CAP_BYTES, MOST_TAKEN, Spool
from edged.telemetry.window import Window

REPO = Path(__file__).resolve().parents[3]
MIB = 2**20
FIVE_MINUTES_S = 300.0
HAPPENING = Happening(at_ms=1, severity="info", code="started", subject="edged", message="edged serves")


@contextmanager
def opened(folder: Path, cap_bytes: int = 8 * MIB, now_ms: int = 1_000_000) -> Iterator[Spool]:
    spool = Spool(folder, cap_bytes, now_ms)
    try:
        yield spool
    finally:
        spool.close()


def window(requests: int = 1, chance: random.Random | None = None, models: int = 1) -> Window:
    aggregate = Aggregate(0.0, 0)
    for model in range(models):
        for _ in range(requests):
            compute_s = chance.lognormvariate(-6, 0.5) if chance else 0.002
            aggregate.add(Executed(f"model-{model}", 1, "fp32", 1, (0.001,), compute_s, 7))
    return aggregate.close(FIVE_MINUTES_S, 300_000, clock_synchronized=True)


def windows_of(spool: Spool, *, coarse: bool = False) -> list[Telemetry]:
    return [
        msgspec.json.decode(row.payload, type=Telemetry)
        for row in spool.take(MOST_TAKEN, coarse=coarse)
        if row.kind == "window"
    ]


def drained(spool: Spool) -> list[Telemetry]:
    """All windows, each acknowledged."""
    found: list[Telemetry] = []
    while rows := spool.take(MOST_TAKEN, coarse=False):
        found += [msgspec.json.decode(row.payload, type=Telemetry) for row in rows]
        spool.acknowledge([row.last for row in rows])
    return found


def answered(found: list[Telemetry]) -> int:
    return sum(model.codes["ok"] for each in found for model in each.window.models)


def test_windows_come_out_in_order_with_their_totals(tmp_path):
    with opened(tmp_path) as spool:
        for count in (3, 4, 5):
            spool.append_window(window(count))
        found = windows_of(spool)
    assert [(each.first, each.last) for each in found] == [(1, 1), (2, 2), (3, 3)]
    assert [each.totals.models[0].codes["ok"] for each in found] == [3, 7, 12]
    assert len({each.epoch for each in found}) == 1


def test_everything_is_there_after_it_was_opened_again(tmp_path):
    with opened(tmp_path) as spool:
        spool.append_window(window(3))
        epoch = spool.epoch
    with opened(tmp_path) as spool:
        assert spool.epoch == epoch
        assert spool.append_window(window(4)) == 2
        assert windows_of(spool)[-1].totals.models[0].codes["ok"] == 7


def test_windows_go_out_by_the_hour(tmp_path):
    with opened(tmp_path) as spool:
        for _ in range(11):
            spool.append_window(window())
        assert windows_of(spool, coarse=True) == [], "the hour is not over"
        for _ in range(14):
            spool.append_window(window())
        found = windows_of(spool, coarse=True)
        assert [(each.first, each.last, each.window.span_ms) for each in found] == [
            (1, 12, 3_600_000),
            (13, 24, 3_600_000),
        ]
        assert answered(found) == 24
        rest = spool.take(9, coarse=True, all_now=True)
        assert [row.last for row in rest] == [12, 24, 25], "what was handed out comes again until somebody has it"


def test_events_go_out_before_windows(tmp_path):
    with opened(tmp_path) as spool:
        spool.append_window(window())
        spool.append_event(HAPPENING, kept=True)
        found = spool.take(9, coarse=False)
    assert [(row.last, row.kind) for row in found] == [(2, "event"), (1, "window")]
    assert msgspec.json.decode(found[0].payload, type=Event).event == HAPPENING


def test_a_row_that_was_handed_out_never_changes(tmp_path):
    with opened(tmp_path, LEAST_CAP_BYTES) as spool:
        for _ in range(3):
            spool.append_window(window())
        before = spool.take(2, coarse=False)
        for _ in range(400):
            spool.append_window(window(40, random.Random(1), models=8))
        after = spool.take(2, coarse=False)
        assert spool.standing().lost.windows == 0
    assert [row.payload for row in after] == [row.payload for row in before]


def test_what_somebody_has_is_gone(tmp_path):
    with opened(tmp_path) as spool:
        for _ in range(4):
            spool.append_window(window())
        spool.acknowledge([row.last for row in spool.take(2, coarse=False)])
        assert [each.last for each in windows_of(spool)] == [3, 4]
        assert spool.append_window(window()) == 5, "numbers go on"


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def fill(spool: Spool, count: int, chance: random.Random) -> int:
    """Appends so many windows of three busy models; gives how many requests they counted."""
    ready = [window(60, chance, models=3) for _ in range(24)]
    for number in range(count):
        spool.append_window(ready[number % len(ready)])
    return count * 60 * 3


def check_cap(folder: Path, count: int, cap_bytes: int) -> None:
    chance = random.Random(7)
    with opened(folder, cap_bytes) as spool:
        counted = fill(spool, count, chance)
        assert disk_bytes(folder) <= cap_bytes
        found = drained(spool)
        assert disk_bytes(folder) <= cap_bytes
        standing = spool.standing()
    assert answered(found) == counted
    assert sum(total.codes["ok"] for total in found[-1].totals.models) == counted
    assert (standing.lost.windows, standing.lost.events) == (0, 0)
    assert found[0].first == 1
    assert found[-1].last == count
    for one, other in pairwise(found):
        assert other.first == one.last + 1, "every number lies in exactly one window"


def test_the_cap_holds_and_no_count_is_lost(tmp_path):
    check_cap(tmp_path / "spool", 3 * 288, LEAST_CAP_BYTES)


@pytest.mark.slow
def test_ninety_days_offline_fit_eight_mib_with_every_total_exact(tmp_path):
    check_cap(tmp_path / "spool", 90 * 288, 8 * MIB)


def test_events_have_their_share_and_decisions_go_last(tmp_path):
    long = msgspec.structs.replace(HAPPENING, message=random.Random(3).randbytes(2000).hex())
    with opened(tmp_path, LEAST_CAP_BYTES) as spool:
        spool.append_window(window())
        for number in range(300):
            spool.append_event(long, kept=number < 20)
        found = spool.take(1000, coarse=False)
        lost = spool.standing().lost
    events = [row.last for row in found if row.kind == "event"]
    assert set(range(2, 22)) <= set(events), "decisions stay while anything else is there"
    assert lost.events == 300 - len(events) > 0
    assert lost.windows == 0
    assert disk_bytes(tmp_path) <= LEAST_CAP_BYTES


def test_an_epoch_is_higher_even_when_the_clock_went_back_and_the_spool_is_gone(tmp_path):
    with opened(tmp_path, now_ms=4_102_444_800_000) as spool:
        far = spool.epoch
    for path in tmp_path.glob("spool.db*"):
        path.unlink()
    with opened(tmp_path, now_ms=1_000) as spool:
        assert spool.epoch == far + 1


def test_one_damaged_row_costs_that_row_and_is_counted(tmp_path):
    with opened(tmp_path) as spool:
        for _ in range(3):
            spool.append_window(window())
        spool._db.execute("UPDATE rows SET payload = substr(payload, 1, 40) WHERE last = 2")
        found = windows_of(spool)
        assert spool.standing().lost.windows == 1
    assert [each.last for each in found] == [1, 3]
    assert found[-1].totals.models[0].codes["ok"] == 3, "the totals have it nevertheless"


def test_a_full_disk_is_no_damage_and_loses_nothing_that_was_there(tmp_path):
    with opened(tmp_path) as spool:
        spool.append_window(window())
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        held = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (disk_bytes(tmp_path), before[1]))
            with pytest.raises(sqlite3.OperationalError):
                _append_without_end(spool)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, held)
        sequence = spool.standing().sequence
        assert spool.append_window(window()) == sequence + 1, "it goes on where it stopped"
        found = drained(spool)
    assert [each.last for each in found] == list(range(1, sequence + 2))
    assert sum(total.codes["ok"] for total in found[-1].totals.models) == answered(found)


def _append_without_end(spool: Spool) -> None:
    for _ in range(400):
        spool.append_window(window(60, random.Random(1), models=8))


APPENDER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from edged.facts import Executed
    from edged.telemetry.aggregate import Aggregate
    from edged.telemetry.spool import Spool

    spool = Spool(Path(sys.argv[1]), 1, 1_000_000)
    aggregate = Aggregate(0.0, 0)
    while True:
        aggregate.add(Executed("digits", 1, "fp32", 1, (0.001,), 0.002, 7))
        print(spool.append_window(aggregate.close(300.0, 0, clock_synchronized=True)), flush=True)
    """
)


def check_kills(folder: Path, count: int) -> None:
    chance = random.Random(random.randrange(2**32))
    told = 0
    for _ in range(count):
        process = subprocess.Popen([sys.executable, "-c", APPENDER, str(folder)], stdout=subprocess.PIPE, cwd=REPO)
        with process:
            assert process.stdout is not None
            for _ in range(chance.randrange(1, 60)):
                told = int(process.stdout.readline())
            process.kill()
            told = max([told, *(int(line) for line in process.stdout.read().split(b"\n")[:-1])])
    with opened(folder, 1) as spool:
        found = drained(spool)
    assert answered(found) == found[-1].last >= told, "no number was given twice, and none that was told is gone"
    assert sum(total.codes["ok"] for total in found[-1].totals.models) == found[-1].last


def test_killed_at_any_moment_it_keeps_what_it_told(tmp_path):
    check_kills(tmp_path, 4)


@pytest.mark.slow
def test_killed_five_hundred_times_it_keeps_what_it_told(tmp_path):
    check_kills(tmp_path, 500)


def test_what_lies_there_is_coarsened_and_no_count_is_lost(tmp_path):
    with opened(tmp_path) as spool:
        for _ in range(30):
            spool.append_window(window())
        spool.take(3, coarse=False)
        used_bytes = spool.standing().used_bytes
        spool.coarsen()
        assert spool.standing().used_bytes < used_bytes
        found = windows_of(spool)
    spans_ms = [each.window.span_ms for each in found]
    assert spans_ms[:3] == [300_000] * 3, "what was handed out stays"
    assert spans_ms[3:] == [27 * 300_000], "hours, and of those a day that is not over"
    assert answered(found) == 30


def test_a_memory_of_nonces_that_was_made_in_the_future_was_made_when_it_was_opened(tmp_path):
    ahead_ms, now_ms = 4_000_000_000_000, 1_790_000_000_000
    Spool(tmp_path, 2**23, ahead_ms).close()
    with opened(tmp_path, now_ms=now_ms) as spool:
        assert spool.remembers_since_ms(now_ms + 5, clock_synchronized=False) == now_ms
    with opened(tmp_path, now_ms=now_ms + 10) as spool:
        assert spool.remembers_since_ms(now_ms + 15, clock_synchronized=True) == now_ms + 10, "the clock is right now"
    with opened(tmp_path, now_ms=now_ms + 20) as spool:
        assert spool.remembers_since_ms(now_ms + 25, clock_synchronized=False) == now_ms + 10, "and it stays so"


def test_a_clock_that_is_behind_at_a_start_does_not_make_the_memory_of_nonces_older(tmp_path):
    noon_ms, behind_ms = 1_790_000_000_000, 1_790_000_000_000 - 6 * 3_600_000
    Spool(tmp_path, 2**23, noon_ms).close()
    with opened(tmp_path, now_ms=behind_ms) as spool:
        assert spool.remembers_since_ms(behind_ms + 5, clock_synchronized=False) == behind_ms
        assert spool.remembers_since_ms(noon_ms + 5, clock_synchronized=True) == noon_ms, "the clock was set right"
    with opened(tmp_path, now_ms=noon_ms + 10) as spool:
        assert spool.remembers_since_ms(noon_ms + 15, clock_synchronized=True) == noon_ms


@pytest.mark.parametrize("window_s", [1, 10, 30, 50, 60])
def test_short_windows_go_out_by_the_hour_too(tmp_path, window_s):
    each = msgspec.structs.replace(window(), span_ms=window_s * 1000)
    count = 7300 // window_s
    with opened(tmp_path) as spool:
        for _ in range(count):
            spool.append_window(each)
        found = windows_of(spool, coarse=True)
        rest = windows_of_all(spool)
    for one in found:
        assert 3_570_000 <= one.window.span_ms <= 3_672_000
    assert len(found) == 2
    assert answered([*found, *rest]) == count, "no request is in two of them, or in none"


def windows_of_all(spool: Spool) -> list[Telemetry]:
    """Those that are left after the ones that were handed out."""
    sent = spool.standing().handed_out
    return windows_of(spool)[sent:]


def test_what_was_lost_before_is_told_with_the_window(tmp_path):
    with opened(tmp_path) as spool:
        spool.append_window(window(), Lost(events=3))
        spool.append_window(window(), Lost(events=4, windows=2))
        assert windows_of(spool)[-1].lost == spool.standing().lost == Lost(windows=2, events=7)


def test_what_is_counted_and_was_zero_is_kept_and_not_told(tmp_path):
    spool = Spool(tmp_path, 2**23, 0)
    for value in (0, 0, 5):
        aggregate = Aggregate(0.0, 0)
        for name in ("stall_some_permille:io", "throttled_count", "storage_free_mib"):
            aggregate.add(Reading(name, 0 if name == "storage_free_mib" else value))
        spool.append_window(aggregate.close(1200.0, 0, clock_synchronized=True))
    (first,) = spool.take(1, coarse=False)
    assert list(msgspec.json.decode(first.payload)["window"]["readings"]) == ["storage_free_mib"], "0 MiB are news"
    spool.coarsen()
    merged = msgspec.json.decode(spool.take(2, coarse=False)[1].payload)["window"]["readings"]
    assert merged["throttled_count"] == {"count": 2, "sum": 5, "min": 0, "max": 5, "last": 5}
    spool.close()
