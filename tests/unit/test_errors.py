"""Errors: their words are promises to programs, their text is for people."""

import pickle

import pytest

from edged.errors import Code, EdgedError

# Programs hold on to these. A word may be added here; none may be changed or taken away.
WORDS = {
    "malformed_request",
    "invalid_tensor",
    "invalid_argument",
    "unsupported",
    "model_not_found",
    "revision_not_found",
    "revision_not_served",
    "region_not_found",
    "region_exists",
    "region_unusable",
    "model_unavailable",
    "overloaded",
    "message_too_large",
    "answer_too_large",
    "deadline_exceeded",
    "cancelled",
    "inference_failed",
    "shutting_down",
    "bundle_invalid",
    "digest_mismatch",
    "incompatible_hardware",
    "incompatible_runtime",
    "incompatible_signature",
    "load_failed",
    "golden_mismatch",
    "worker_crashed",
    "worker_hang",
    "settings_invalid",
    "already_running",
    "not_permitted",
    "not_running",
    "cannot_listen",
    "identity_invalid",
    "os_failed",
    "journal_unwritable",
    "internal",
    "crash_loop",
    "memory_short",
    "device_unavailable",
    "not_built",
    "derived_unusable",
    "signature_invalid",
    "metadata_expired",
    "rollback_attack",
    "download_failed",
    "storage_full",
    "plan_invalid",
    "repository_invalid",
    "key_unusable",
}


def test_no_word_has_been_renamed_or_taken_away():
    assert set(Code) >= WORDS


def test_every_word_stands_above():
    assert set(Code) <= WORDS, "add the new word to WORDS"


@pytest.mark.parametrize("code", Code)
def test_a_word_is_its_members_name(code):
    assert code.value == code.name.lower()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (EdgedError(Code.OVERLOADED, "model 'm' has 5 requests waiting"), "model 'm' has 5 requests waiting"),
        (EdgedError(Code.OVERLOADED, "it is full", "send less"), "it is full; send less"),
    ],
)
def test_the_text_says_what_happened_and_what_to_do(error, text):
    assert str(error) == text


def test_an_error_keeps_its_parts():
    error = EdgedError(Code.OVERLOADED, "it is full", "send less")
    assert (error.code, error.message, error.hint) == (Code.OVERLOADED, "it is full", "send less")


def test_an_error_survives_a_way_between_processes():
    error = pickle.loads(pickle.dumps(EdgedError(Code.OVERLOADED, "it is full", "send less")))
    assert (error.code, error.message, error.hint) == (Code.OVERLOADED, "it is full", "send less")
