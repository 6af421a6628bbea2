"""Which variant of those that can run is to run."""

import pytest
from support.standins import manifest

from edged.errors import Code, EdgedError
from edged.models.choosing import Choice
from edged.system.hardware import Hardware

SHORT = EdgedError(Code.MEMORY_SHORT, "no memory")


@pytest.fixture
def told():
    return []


@pytest.fixture
def choice(told):
    bundle = manifest(variants=("best", "lesser", "least"))
    return Choice(bundle, Hardware("generic"), {"onnxruntime": "1.0"}, lambda: told.append(True))


def test_the_best_unless_another_is_preferred(choice, told):
    assert (choice.variant.name, choice.because) == ("best", "")
    choice.prefer("least", "it is hot")
    assert (choice.variant.name, choice.because, len(told)) == ("least", "it is hot", 1)
    choice.prefer("least", "it is hotter")
    assert (choice.because, len(told)) == ("it is hotter", 1), "the same again is no change"
    choice.prefer("", "it is cool")
    assert (choice.variant.name, choice.because, len(told)) == ("best", "", 2)


def test_one_that_is_preferred_and_cannot_run_leaves_the_best(choice):
    choice.prefer("least", "it is hot")
    choice.pass_over(choice.variant, EdgedError(Code.LOAD_FAILED, "broken"))
    assert choice.variant.name == "best"
    assert choice.objections == "least: broken"


def test_what_is_avoided_runs_only_where_there_is_nothing_else(choice, told):
    choice.avoid(dict.fromkeys(["best", "lesser"], "the chip is gone"))
    assert (choice.variant.name, choice.because, len(told)) == ("least", "the chip is gone", 1)
    choice.prefer("lesser", "it is hot")
    assert choice.variant.name == "least"
    choice.avoid(dict.fromkeys(["best", "lesser", "least"], "all are gone"))
    assert choice.variant.name == "lesser"
    choice.avoid({})
    choice.prefer("", "")
    assert (choice.variant.name, choice.because) == ("best", "")


def test_each_has_its_chance_anew(choice):
    for _ in range(3):
        choice.pass_over(choice.variant, OSError("no process"))
    assert not choice.runnable
    choice.anew()
    assert [variant.name for variant in choice.runnable] == ["best", "lesser", "least"]
    assert choice.passed_over == []


def test_a_variant_is_asked_for_again_also_where_the_others_are_avoided(choice, told):
    choice.avoid(dict.fromkeys(["lesser", "least"], "the chip is gone"))
    assert not choice.spare(choice.variant, SHORT)
    told.clear()
    choice.ask_again()
    assert told == [True]


def test_what_is_asked_for_again_waits_meanwhile_and_people_are_told(choice):
    choice.spare(choice.variant, EdgedError(Code.DEVICE_UNAVAILABLE, "it is taken", "look"))
    assert (choice.variant.name, choice.because) == ("lesser", "it is taken")
    (told,) = choice.waiting
    assert (told.variant, told.code, told.reason) == ("best", "device_unavailable", "it is taken; look")
    choice.ask_again()
    assert (choice.variant.name, choice.waiting) == ("best", [])


class Building:
    """A workshop as a choice sees it: these variants are not built yet."""

    def __init__(self, *names):
        self.missing = set(names)

    def lacks(self, _, variant):
        return f"{variant.name} is not built yet" if variant.name in self.missing else ""


def test_what_is_not_built_yet_makes_way_and_runs_once_it_is(told):
    workshop = Building("best", "lesser")
    bundle = manifest(variants=("best", "lesser", "least"))
    choice = Choice(bundle, Hardware("generic"), {"onnxruntime": "1.0"}, lambda: told.append(True), workshop)
    assert (choice.variant.name, choice.because) == ("least", "best is not built yet")
    assert [variant.name for variant in choice.unbuilt] == ["best", "lesser"]
    choice.avoid({"best": "the chip is gone"})
    assert [variant.name for variant in choice.unbuilt] == ["lesser"], "a chip that is gone builds nothing"
    choice.avoid({})
    told.clear()
    assert [(each.variant, each.code) for each in choice.waiting] == [("best", "not_built"), ("lesser", "not_built")]
    workshop.missing = {"lesser"}
    choice.look_again()
    assert (choice.variant.name, len(told)) == ("best", 1)
    choice.pass_over(bundle.variants[1], EdgedError(Code.LOAD_FAILED, "it cannot be built"))
    choice.pass_over(bundle.variants[1], EdgedError(Code.LOAD_FAILED, "nor now"))
    assert ([each.reason for each in choice.passed_over], choice.waiting) == (["it cannot be built"], [])


def test_what_is_not_built_yet_is_what_is_to_run_where_there_is_nothing_else():
    choice = Choice(
        manifest(variants=("best",)), Hardware("generic"), {"onnxruntime": "1"}, lambda: None, Building("best")
    )
    assert choice.variant.name == "best"
