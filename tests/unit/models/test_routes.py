"""Who answers: from the model and version of a request to a revision, or to a refusal that says what to do."""

import pytest

from edged.errors import Code, EdgedError
from edged.models.routes import Route, parse_version, resolve

ROUTES = {
    "digits": Route(serving=7, loaded=(5, 7), known=(5, 6, 7, 9)),
    "defects": Route(serving=1, loaded=(1,), known=(1,)),
}


@pytest.mark.parametrize(
    ("model", "version", "revision"),
    [
        pytest.param("digits", "", 7, id="none named: the one that serves"),
        pytest.param("digits", "7", 7, id="the one that serves"),
        pytest.param("digits", "5", 5, id="another one that is loaded"),
        pytest.param("defects", "", 1, id="each model for itself"),
    ],
)
def test_who_answers(model, version, revision):
    assert resolve(ROUTES, model, version) == (model, revision)


@pytest.mark.parametrize(
    ("model", "version", "code", "message"),
    [
        pytest.param(
            "faces",
            "",
            Code.MODEL_NOT_FOUND,
            "there is no model 'faces'; models here: defects, digits",
            id="no such model",
        ),
        pytest.param("faces", "3", Code.MODEL_NOT_FOUND, "there is no model 'faces'", id="of any version"),
        pytest.param("", "", Code.MODEL_NOT_FOUND, "there is no model ''", id="no model named"),
        pytest.param("x" * 5000, "", Code.MODEL_NOT_FOUND, f"there is no model '{'x' * 64}';", id="a very long name"),
        pytest.param(
            "x" * 5000, "latest", Code.MODEL_NOT_FOUND, f"there is no model '{'x' * 64}';", id="and no version either"
        ),
        pytest.param(
            "digits",
            "6",
            Code.REVISION_NOT_SERVED,
            "revision 6 of model 'digits' is not served any more; revision 7 is; leave model_version empty",
            id="known and not loaded",
        ),
        pytest.param("digits", "9", Code.REVISION_NOT_SERVED, "revision 9 of model 'digits' is not served", id="newer"),
        pytest.param("digits", "2", Code.REVISION_NOT_SERVED, "revision 2 of model 'digits' is not served", id="older"),
        pytest.param(
            "digits",
            "8",
            Code.REVISION_NOT_FOUND,
            "model 'digits' has no revision 8; revision 7 serves; leave model_version empty to follow it",
            id="never here",
        ),
        pytest.param(
            "digits",
            "latest",
            Code.INVALID_ARGUMENT,
            "model 'digits': 'latest' is no version; leave model_version empty, or give a revision such as 7",
            id="no number",
        ),
    ],
)
def test_who_does_not(model, version, code, message):
    with pytest.raises(EdgedError) as caught:
        resolve(ROUTES, model, version)
    assert caught.value.code is code
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("version", ["latest", "8", "2"])
def test_no_message_holds_a_long_name_whole(version):
    """Names of models are short; whoever asks may give any."""
    name = "x" * 5000
    with pytest.raises(EdgedError) as caught:
        resolve({name: ROUTES["digits"]}, name, version)
    assert f"model '{'x' * 64}'" in caught.value.message
    assert len(str(caught.value)) < 200


def test_a_device_without_models_says_so():
    with pytest.raises(EdgedError, match="models here: none"):
        resolve({}, "digits", "")


def test_of_many_models_some_are_named():
    routes = {f"model-{index:02}": ROUTES["defects"] for index in range(50)}
    with pytest.raises(EdgedError) as caught:
        resolve(routes, "digits", "")
    assert caught.value.hint == "models here: " + ", ".join(f"model-{index:02}" for index in range(10))


class TestVersions:
    @pytest.mark.parametrize(
        ("version", "revision"), [("", None), ("1", 1), ("42", 42), ("9007199254740991", 2**53 - 1)]
    )
    def test_that_are_some(self, version, revision):
        assert parse_version("digits", version) == revision

    @pytest.mark.parametrize(
        "version",
        ["0", "01", "-1", "+1", "1.0", "1e3", " 1", "1 ", "1\n", "1_0", "v1", "٣", "²", "1" * 17, "9" * 5000, "\0"],
    )
    def test_that_are_none(self, version):
        with pytest.raises(EdgedError) as caught:
            parse_version("digits", version)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert len(str(caught.value)) < 200

    def test_of_a_model_with_a_long_name(self):
        with pytest.raises(EdgedError) as caught:
            parse_version("x" * 5000, "latest")
        assert caught.value.message == f"model '{'x' * 64}': 'latest' is no version"
