"""How updates are shown: what is told beforehand, and what holds the fetcher."""

from edged._pb.edged.v1 import update_pb2 as pb
from edged.ctl import update_tables
from edged.update.machine import Event

WHY = "memory holds one of the revisions 1 and 2, so requests wait while they change places"


def test_that_revisions_change_places_is_told_beside_the_table_and_while_it_is_followed():
    model = pb.ModelUpdate(model="m", phase="trial", serving=1, target=2, text="taken in", swaps=WHY)
    found = pb.UpdatesStatus(models=[model])
    assert list(update_tables.notes(found)) == [f"m: {WHY}"]
    assert list(update_tables.progress(found)) == [f"m revision 2 trial: taken in; {WHY}"]


def test_it_is_told_once_where_it_is_what_happened_last_too():
    model = pb.ModelUpdate(model="m", phase="trial", serving=1, target=2, text=WHY, swaps=WHY)
    assert list(update_tables.progress(pb.UpdatesStatus(models=[model]))) == [f"m revision 2 trial: {WHY}"]


def test_what_the_kernel_does_not_hold_the_fetcher_by_is_told():
    found = pb.UpdatesStatus(fetcher_lacks=["Landlock (this kernel has none, or it is not switched on)"])
    (note,) = update_tables.notes(found)
    assert note == "the fetcher is not held by Landlock (this kernel has none, or it is not switched on)"
    assert not list(update_tables.notes(pb.UpdatesStatus()))


def test_what_serves_is_told_with_what_keeps_another_from_it():
    bad = "revision 2 is quarantined: golden_mismatch: it differs"
    models = [
        pb.ModelUpdate(model="a", phase="idle", serving=1, decision="revision 1 serves"),
        pb.ModelUpdate(model="b", phase="idle", serving=1, decision=bad, refused=True),
        pb.ModelUpdate(model="c", phase="idle", decision=bad, refused=True),
        pb.ModelUpdate(model="d", phase="idle"),
    ]
    assert list(update_tables.progress(pb.UpdatesStatus(models=models))) == [
        "a revision 1 serves",
        f"b revision 1 serves; {bad}",
        f"c: no revision serves; {bad}",
        "d: no revision serves",
    ]


def test_evidence_is_written_as_people_write_it():
    step = pb.Transition(model="m", revision=2, event="taken_in", before="staged", after="trial")
    step.evidence.update({"int8": {"goldens": 1.0}, "received": 79958.0, "p99_ms": 1.23456, "of": [1, True, None]})
    ((*_, why),) = update_tables.history(pb.ListHistoryResponse(transitions=[step]), evidence=True).rows
    assert why == "it is in the store (int8 [goldens 1], of [1, yes, n/a], p99 ms 1.235, received 79958)"


def test_each_event_has_words_for_people_or_brings_its_own():
    brings_its_own = {Event.FAILED, Event.DEFERRED, Event.SWAPS}
    assert set(update_tables._HAPPENED) == set(Event) - brings_its_own
