"""The lines of what waits: nothing lost, nothing doubled, nobody starved, whatever comes, goes and dies meanwhile."""

import itertools
from concurrent.futures import Future

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from support.standins import FP32_BYTES, manifest, pending

from edged.serving.division import Division
from edged.serving.waiting import FAIR_BATCHES, Waiting

LEVELS = 3
MAX_ROWS = 4
OF = manifest(max_batch_size=1000)


def request(rows=1, columns=1, level=1):
    made = pending(Future(), rows, columns, of=OF)
    made.level = level
    return made


def test_a_batch_is_full_with_the_rows_that_its_leader_lets_it_have():
    waiting, bounded = Waiting(), request(rows=2)
    bounded.admitted = msgspec.structs.replace(bounded.admitted, max_rows=2)
    waiting.add(bounded)
    assert waiting.full(8)


class TestALine:
    ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 2), st.integers(1, LEVELS)), max_size=20)

    def filled(self, requests, **how):
        waiting = Waiting(**how)
        every = [request(*each) for each in requests]
        for each in every:
            waiting.add(each)
        return waiting, every

    @given(ROWS, st.integers(0, 8))
    def test_a_batch_has_one_key_and_at_most_so_many_rows_unless_its_leader_alone_has_more(self, requests, most):
        waiting, _ = self.filled(requests)
        while batch := waiting.take(most):
            assert len({each.admitted.key for each in batch}) == 1
            assert len(batch) == 1 or sum(each.admitted.rows for each in batch) <= most

    @given(ROWS, st.integers(1, 8))
    def test_whoever_leads_has_nobody_of_better_priority_behind_but_once_in_eight(self, requests, most):
        waiting, _ = self.filled(requests)
        others = 0
        while batch := waiting.take(most):
            left = [each for each in waiting if each.level < batch[0].level]
            others = others + 1 if left else 0
            assert others <= 1

    @given(ROWS, st.integers(1, 8))
    def test_of_one_priority_and_key_nobody_is_overtaken(self, requests, most):
        waiting, every = self.filled(requests)
        place = {id(each): index for index, each in enumerate(every)}
        order = list(itertools.chain.from_iterable(iter(lambda: waiting.take(most), [])))
        assert len(order) == len(every)
        for level, columns in itertools.product(range(1, LEVELS + 1), (1, 2)):
            same = [place[id(each)] for each in order if (each.level, each.admitted.shapes[0][1]) == (level, columns)]
            assert same == sorted(same)

    @given(ROWS, st.integers(0, 8))
    def test_in_order_nobody_is_overtaken_at_all(self, requests, most):
        waiting, every = self.filled([(rows, columns, 1) for rows, columns, _ in requests], in_order=True)
        order = list(itertools.chain.from_iterable(iter(lambda: waiting.take(most), [])))
        assert order == every

    @given(ROWS, st.integers(1, LEVELS))
    def test_who_is_skipped_is_the_oldest_of_the_lowest_that_is_no_better_and_was_not_begun(self, requests, level):
        waiting, every = self.filled(requests)
        leader = next(iter(waiting.take(0)), None)
        if leader is not None:
            leader.division = Division(leader.admitted, leader.contents, None, 0)
            waiting.give_back(leader)
        may_go = [each for each in every if each.place and each.level >= level and each is not leader]
        lowest = max((each.level for each in may_go), default=0)
        expected = next((each for each in may_go if each.level == lowest), None)
        assert waiting.stalest(level) is expected

    @given(ROWS, st.integers(1, 8))
    def test_where_it_is_not_fair_nobody_has_anybody_of_better_priority_behind(self, requests, most):
        waiting, _ = self.filled(requests)
        waiting.fair = False
        while batch := waiting.take(most):
            assert not [each for each in waiting if each.level < batch[0].level]

    @given(st.integers(0, 20), st.integers(2, LEVELS))
    def test_however_much_of_the_best_comes_the_least_is_executed_within_the_bound(self, older, level):
        waiting = Waiting()
        for _ in range(older):
            waiting.add(request(columns=2, level=level))
        last = request(level=level)
        waiting.add(last)
        taken = 0
        while last.place:
            waiting.add(request(level=1))
            waiting.add(request(level=1))
            waiting.take(1)
            taken += 1
            assert taken <= FAIR_BATCHES * (older + 1)

    def test_followers_of_lower_priority_fill_a_batch_up(self):
        waiting, (low, high, other) = self.filled([(1, 1, 3), (1, 1, 1), (1, 2, 2)])
        assert waiting.take(8) == [high, low]
        assert waiting.take(8) == [other]

    def test_what_is_below_a_priority_comes_lowest_and_newest_first(self):
        waiting, (one, two, three, best) = self.filled([(1, 1, 2), (1, 1, 3), (1, 1, 3), (1, 1, 1)])
        assert list(waiting.below(1)) == [three, two, one]
        assert list(waiting.below(2)) == [three, two]
        assert best in list(waiting)


class AQueueInUse(RuleBasedStateMachine):
    """Against a plain list of all that waits."""

    requests = Bundle("requests")

    def __init__(self):
        super().__init__()
        self.waiting = Waiting()
        self.model = []
        self.executing = []

    @rule(target=requests, rows=st.integers(0, 5), columns=st.integers(1, 2), level=st.integers(1, LEVELS))
    def arrives(self, rows, columns, level):
        made = request(rows, columns, level)
        self.waiting.add(made)
        self.model.append(made)
        return made

    @rule(which=consumes(requests))
    def is_given_up_and_taken_out(self, which):
        which.answer.cancel()
        assert self.waiting.remove(which) == (which in self.model)
        if which in self.model:
            self.model.remove(which)

    @rule(which=consumes(requests))
    def is_given_up_and_still_stands_there(self, which):
        which.answer.cancel()

    @rule(most=st.integers(0, MAX_ROWS))
    def a_batch_is_taken(self, most):
        batch = self.waiting.take(most)
        assert all(not each.answer.done() and each in self.model for each in batch)
        assert batch or not any(not each.answer.done() for each in self.model)
        assert len(batch) == len(set(map(id, batch)))
        alone = [each for each in batch if each.retried or each.division is not None]
        assert not alone or len(batch) == 1
        self.model = [each for each in self.model if each.place]
        self.executing += batch

    @rule(data=st.data())
    def the_worker_has_executed_a_part(self, data):
        divided = [each for each in self.executing if not each.answer.done() and each.rows > 1]
        if len(self.executing) != 1 or not divided:
            return
        (each,) = divided
        if each.division is None:
            each.division = Division(each.admitted, each.contents, None, 0)
        each.division.left = data.draw(st.integers(1, each.rows - 1))
        self.waiting.give_back(each)
        self.model.append(each)
        same = [other for other in self.waiting if other.level == each.level and other.retried == each.retried]
        assert same[0] is each, "before all others of its line"
        self.executing = []

    @rule()
    def the_worker_answers(self):
        for each in self.executing:
            if not each.answer.done():
                each.answer.set_result(b"")
        self.executing = []

    @rule()
    def the_worker_dies(self):
        for each in self.executing:
            if not each.retried and not each.answer.done():
                each.retried = True
                self.waiting.add(each)
                self.model.append(each)
        self.executing = []

    @invariant()
    def what_it_counts_is_what_waits(self):
        assert self.waiting.count == len(self.model)
        assert self.waiting.size == sum(each.size for each in self.model)
        assert sorted(map(id, self.waiting)) == sorted(map(id, self.model))
        assert all(each.size == each.admitted.rows * each.admitted.shapes[0][1] * FP32_BYTES for each in self.model)
        for level in range(1, LEVELS + 1):
            before = [each.rows for each in self.model if each.level <= level]
            assert self.waiting.before(level) == (len(before), sum(before))


TestAQueueInUse = AQueueInUse.TestCase
