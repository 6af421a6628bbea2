"""What `edgectl watch` tells of two states."""

from __future__ import annotations

from edged._pb.edged.v1 import admin_pb2 as pb
from edged.ctl.watch import news


def status(*models: pb.Model, **values: object) -> pb.Status:
    given = {"pid": 1, "level": pb.LEVEL_NOMINAL, "summary": "serving", "models": models}
    return pb.Status(**{**given, **values})  # type: ignore[arg-type]


def model(state: int = pb.MODEL_STATE_READY, **values: object) -> pb.Model:
    variant = "fp32" if state == pb.MODEL_STATE_READY else ""
    return pb.Model(**{"name": "digits", "revision": 7, "variant": variant, "state": state, **values})  # type: ignore[arg-type]


def worker(pid: int) -> pb.Worker:
    return pb.Worker(model="digits", revision=7, variant="fp32", pid=pid)


def test_the_first_state_is_its_summary():
    assert news(None, status(model())) == ["serving"]


def test_nothing_is_told_where_only_counters_grew():
    assert news(status(model(requests_ok=1)), status(model(requests_ok=2))) == []


def test_a_model_that_becomes_ready():
    told = news(status(model(pb.MODEL_STATE_LOADING), summary="starting"), status(model()))
    assert told == ["model digits revision 7 loading → ready (variant fp32)", "serving"]


def test_a_crash_is_told_once_with_its_reason():
    reason = "its worker ended (killed by SIGKILL); it is started again in 0.5 s"
    crashed = status(
        model(pb.MODEL_STATE_LOADING, reason=reason),
        degraded_reasons=[f"model digits is loading: {reason}"],
        summary="degraded, 0 of 1 models ready",
    )
    before = status(model(), workers=[worker(10)])
    assert news(before, crashed) == [
        f"model digits revision 7 ready → loading: {reason}",
        "worker 10 of digits revision 7 variant fp32 is gone",
        "degraded, 0 of 1 models ready",
    ]
    assert news(crashed, status(model(), workers=[worker(11)])) == [
        "model digits revision 7 loading → ready (variant fp32)",
        "worker 11 of digits revision 7 variant fp32 is there",
        "serving",
    ]


def test_reasons_that_are_no_models_own_come_and_go():
    wrong = status(model(), degraded_reasons=["the settings are wrong"])
    assert news(status(model()), wrong) == ["degraded: the settings are wrong"]
    assert news(wrong, status(model())) == ["no longer degraded: the settings are wrong"]


def test_models_variants_levels_and_daemons_that_change():
    assert news(status(), status(model())) == ["model digits revision 7 is new: ready (variant fp32)"]
    assert news(status(model()), status()) == ["model digits revision 7 is gone"]
    assert news(status(model()), status(model(variant="int8"))) == ["model digits revision 7 variant fp32 → int8"]
    assert news(status(), status(level=pb.LEVEL_CRITICAL)) == ["level nominal → critical"]
    assert news(status(), status(pid=2)) == ["edged was started again, pid 2"]
