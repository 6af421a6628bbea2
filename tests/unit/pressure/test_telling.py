"""What the sensors say becomes facts: nothing that is absent, everything that is there, in the units of its names."""

from __future__ import annotations

from edged.facts import Reading
from edged.pressure.readings import Memory, Power, Readings, Stall, Storage, Temperature
from edged.pressure.telling import facts


def test_what_is_absent_is_not_told():
    assert list(facts(Readings())) == []
    assert list(facts(Readings(temperatures=(Temperature("cpu"),)))) == [Reading("throttled_count", 0)]


def test_each_reading_has_its_unit():
    readings = Readings(
        load=0.25,
        temperatures=(Temperature("cpu", 61.5), Temperature("gpu", 62.7), Temperature("soc")),
        throttled=("cpu",),
        stalls={"memory": Stall(12.34, 1.0)},
        memory=Memory(2**30, 2**20, 3),
        power=Power(charge_percent=99.5),
        storage=Storage(2**40, 2**39),
    )
    assert {each.name: each.value for each in facts(readings)} == {
        "load_permille": 250,
        "temperature_c": 63,
        "throttled_count": 1,
        "stall_some_permille:memory": 123,
        "stall_full_permille:memory": 10,
        "memory_available_mib": 1,
        "oom_kills_count": 3,
        "charge_permille": 995,
        "storage_free_mib": 2**19,
    }


def test_a_sensor_that_is_not_believed_is_not_told():
    readings = Readings(temperatures=(Temperature("cpu", 41.0), Temperature("gpu", 200.0)))
    assert Reading("temperature_c", 41) in facts(readings, {"gpu": "says 200 °C"})
    assert Reading("temperature_c", 200) in facts(readings, {"gpu trip points": "make no sense"})
    assert "temperature_c" not in [each.name for each in facts(readings, ["cpu", "gpu"])]
