"""`edgectl update --watch` and what became of an update, however quickly that came to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edged._pb.edged.v1 import update_pb2 as pb
from edged.ctl import update
from edged.ctl.faults import NO
from edged.ctl.main import run


class Quick:
    """A device on which the update has failed before the look is answered."""

    def __init__(self) -> None:
        self._steps = [pb.Transition(sequence=4, model="m", revision=1, reason="operator", text="long ago")]

    def history(self, _: str, __: int) -> pb.ListHistoryResponse:
        return pb.ListHistoryResponse(transitions=self._steps)

    def look(self, _: str, *, check_only: bool) -> pb.UpdatesStatus:
        assert not check_only
        self._steps.append(
            pb.Transition(sequence=5, model="m", revision=2, reason="golden_mismatch", text="it differs")
        )
        return pb.UpdatesStatus()

    def watch(self) -> Iterator[pb.UpdatesStatus]:
        yield pb.UpdatesStatus()


def test_what_failed_while_the_look_was_answered_is_told(monkeypatch, capsys):
    @contextmanager
    def connected(_: object) -> Iterator[Quick]:
        yield Quick()

    monkeypatch.setattr(update, "_updates", connected)
    assert run(["update", "--watch"]) == NO
    said = capsys.readouterr().err
    assert "golden_mismatch" in said
    assert "long ago" not in said


def test_what_is_refused_came_to_nothing(monkeypatch, capsys):
    why = "revision 2 is quarantined: golden_mismatch: it differs"

    class Quarantined(Quick):
        def look(self, _: str, *, check_only: bool) -> pb.UpdatesStatus:
            assert not check_only
            return pb.UpdatesStatus()

        def watch(self) -> Iterator[pb.UpdatesStatus]:
            yield pb.UpdatesStatus(models=[pb.ModelUpdate(model="m", serving=1, decision=why, refused=True)])

    @contextmanager
    def connected(_: object) -> Iterator[Quarantined]:
        yield Quarantined()

    monkeypatch.setattr(update, "_updates", connected)
    assert run(["update", "--watch"]) == NO
    said = capsys.readouterr()
    assert said.out.endswith(f"  m revision 1 serves; {why}\n")
    assert said.err == f"edgectl: m: {why}\n"
