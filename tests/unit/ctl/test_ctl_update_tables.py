"""How updates are shown: what is told beforehand, and what holds the fetcher."""

from edged._pb.edged.v1 import update_pb2 as pb
from edged.ctl import update_tables

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
