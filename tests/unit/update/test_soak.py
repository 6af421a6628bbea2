"""The soak: how often a healthy revision is sent back, and how soon one that errs. Numbers of docs/updates.md."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from edged.bundle.manifest import Soak as Rules
from edged.types import Outcome
from edged.update import soak as under_test
from edged.update.machine import Soaked
from edged.update.outcomes import Outcomes
from edged.update.reasons import Reason
from edged.update.soak import Record, Soak, Verdict, allowed_rate

PAGE = Path(__file__).resolve().parents[3] / "docs/updates.md"
RULES = Rules(min_requests=500, max_s=3600, max_error_rate=0.01)


def outcome(ok: bool, took_s: float = 0.01) -> Outcome:
    return Outcome("m", 2, ok, "" if ok else "inference_failed", took_s)


class Device:
    """A device whose requests come and take as on a real one: by chance, in bursts, now and then slow for seconds."""

    def __init__(self, seed: int, error_rate: float, slower: float = 1.0) -> None:
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.error_rate = error_rate
        self.slower = slower
        self._slow_until_s = 0.0

    def request(self) -> Outcome:
        """The next one."""
        chance = self.random
        self.now_s += chance.expovariate(50.0)
        if self.now_s > self._slow_until_s and chance.random() < 0.0005:
            self._slow_until_s = self.now_s + chance.uniform(0.2, 3.0)
        busy = chance.uniform(1.5, 4.0) if self.now_s < self._slow_until_s else 1.0
        took_s = 0.008 * chance.lognormvariate(0, 0.25) * busy * self.slower
        return outcome(chance.random() >= self.error_rate, took_s)

    def record(self, requests: int) -> Record:
        """How a revision has done over so many requests."""
        outcomes = Outcomes()
        for _ in range(requests):
            outcomes.take(self.request())
        return outcomes.record("m", 2)


def soaked(device: Device, old: Record, rules: Rules = RULES) -> tuple[Verdict, Reason | None, int]:
    """Soaks to the verdict."""
    soak = Soak(rules, old, device.now_s)
    while True:
        soak.add(device.request(), device.now_s)
        verdict, reason, _ = soak.judge(device.now_s)
        if verdict is not Verdict.OPEN or soak.is_over(device.now_s):
            return verdict, reason, soak.requests


def documented(what: str) -> float:
    """A number of the page, by the words before it."""
    found = re.search(re.escape(what) + r"\D*?([0-9][0-9 ,]*(?:\.[0-9]+)?)", PAGE.read_text())
    assert found, what
    return float(found[1].replace(",", "").replace(" ", ""))


@pytest.mark.parametrize("soaks", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_healthy_revision_is_sent_back(soaks):
    bad = []
    for seed in range(soaks):
        rate = (0.0, 0.0005, 0.002, 0.008)[seed % 4]
        old = Device(seed, rate).record(3000)
        verdict, reason, _ = soaked(Device(seed + 10_000, rate), old)
        if verdict is Verdict.BAD:
            bad.append((seed, rate, reason))
    assert not bad


@pytest.mark.parametrize("soaks", [90, pytest.param(3000, marks=pytest.mark.slow)])
def test_one_that_errs_in_a_twentieth_is_sent_back_within_the_documented_number_of_requests(soaks):
    within = []
    for seed in range(soaks):
        old = Device(seed, (0.0, 0.0005, 0.002)[seed % 3]).record((0, 300, 3000)[seed // 3 % 3])
        verdict, reason, requests = soaked(Device(seed + 10_000, 0.05), old)
        assert (verdict, reason) == (Verdict.BAD, Reason.ERROR_RATE), (seed, requests)
        within.append(requests)
    within.sort()
    assert within[-1] <= documented("5 % errors is sent back within")
    assert sum(within) / len(within) <= documented("on average after")


def test_one_that_always_errs_is_sent_back_after_a_handful_of_requests():
    verdict, reason, requests = soaked(Device(1, 1.0), Device(1, 0.0).record(3000))
    assert (verdict, reason) == (Verdict.BAD, Reason.ERROR_RATE)
    assert requests <= documented("that always errs after")


def test_one_that_is_far_slower_is_sent_back_for_it():
    for seed in range(20):
        old = Device(seed, 0.0).record(3000)
        verdict, reason, _ = soaked(Device(seed + 100, 0.0, slower=4.0), old)
        assert (verdict, reason) == (Verdict.BAD, Reason.LATENCY_BUDGET), seed


def test_the_documented_rates_are_those_of_the_code():
    assert documented("false-alarm rate of each test is") == pytest.approx(under_test.ALPHA * 1e5)
    assert documented("ends of its worker send it back:") == under_test.CRASHES


class TestAllowedRate:
    def test_is_the_authors_where_the_record_is_short(self):
        assert allowed_rate(RULES, Record(ok=50)) == RULES.max_error_rate

    def test_is_less_where_the_predecessor_hardly_ever_erred(self):
        assert allowed_rate(RULES, Record(ok=1_000_000)) < RULES.max_error_rate / 5

    def test_is_more_where_the_predecessor_erred_more_than_its_author_allows(self):
        assert 0.05 < allowed_rate(RULES, Record(ok=9500, failed=500)) < 0.07

    def test_is_never_none_at_all(self):
        assert allowed_rate(Rules(max_error_rate=0), Record(ok=10**9)) > 0


class TestDeaths:
    def test_a_hang_is_the_end(self):
        soak = Soak(RULES, Record(), 0.0)
        soak.hangs = 1
        assert soak.judge(1.0)[:2] == (Verdict.BAD, Reason.WORKER_HANG)

    def test_so_many_crashes_are_the_end(self):
        soak = Soak(RULES, Record(), 0.0)
        soak.crashes = under_test.CRASHES - 1
        assert soak.judge(1.0)[0] is Verdict.OPEN
        soak.crashes += 1
        assert soak.judge(1.0)[:2] == (Verdict.BAD, Reason.CRASH_LOOP)


def test_a_soak_is_good_only_after_enough_requests_and_its_least_time():
    soak = Soak(Rules(min_requests=3, max_error_rate=0.9), Record(), 0.0, least_s=60.0)
    for _ in range(1000):
        soak.add(outcome(True), 1.0)
    assert soak.judge(59.0)[0] is Verdict.OPEN
    assert soak.judge(60.0)[0] is Verdict.GOOD


class TestASoakBegunAgain:
    def test_asks_for_what_it_had_not_seen_yet(self):
        rules = Rules(min_requests=1000, max_s=100, max_error_rate=0.9)
        soak = Soak(rules, Record(), 500.0, least_s=90.0, before=Soaked(60.0, 990))
        for _ in range(9):
            soak.add(outcome(True), 510.0)
        assert not soak.proven
        soak.add(outcome(True), 510.0)
        assert soak.proven
        assert soak.judge(529.0)[0] is Verdict.OPEN
        assert soak.judge(530.0)[0] is Verdict.GOOD
        assert [soak.is_over(at_s) for at_s in (539.0, 540.0)] == [False, True]
        found = soak.so_far(530.0)
        assert (found.lasted_s, found.requests) == (90.0, 1000)

    @pytest.mark.parametrize(
        ("error_rate", "slower", "reason"), [(0.05, 1.0, Reason.ERROR_RATE), (0.0, 4.0, Reason.LATENCY_BUDGET)]
    )
    def test_forgets_nothing_that_speaks_against_it(self, error_rate, slower, reason):
        """Paused every few requests, no one life of it sees enough."""
        device, old, before = Device(7, error_rate, slower), Device(8, 0.0).record(3000), Soaked()
        verdict, found = Verdict.OPEN, None
        while verdict is Verdict.OPEN and before.requests < 5000:
            soak = Soak(RULES, old, device.now_s, before=before)
            for _ in range(60):
                soak.add(device.request(), device.now_s)
            verdict, found, text = soak.judge(device.now_s)
            before = soak.so_far(device.now_s)
        assert (verdict, found) == (Verdict.BAD, reason)
        assert "before it went on" in text

    def test_is_judged_by_what_it_sees_now(self):
        soak = Soak(RULES, Record(), 0.0, before=Soaked(3000.0, 100_000))
        for _ in range(int(documented("that always errs after"))):
            soak.add(outcome(False), 1.0)
        assert soak.judge(1.0)[:2] == (Verdict.BAD, Reason.ERROR_RATE)
