"""One tree of errors. Each says what happened to which thing, and carries a stable code for programs."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Stable words for programs; once released, a word is never renamed or given another meaning."""

    # A request that cannot be served as it was sent.
    MALFORMED_REQUEST = "malformed_request"
    INVALID_TENSOR = "invalid_tensor"
    INVALID_ARGUMENT = "invalid_argument"
    UNSUPPORTED = "unsupported"
    MODEL_NOT_FOUND = "model_not_found"
    REVISION_NOT_FOUND = "revision_not_found"
    REVISION_NOT_SERVED = "revision_not_served"
    REGION_NOT_FOUND = "region_not_found"
    REGION_EXISTS = "region_exists"
    REGION_UNUSABLE = "region_unusable"

    # A request that was in order, and could not be served now.
    MODEL_UNAVAILABLE = "model_unavailable"
    OVERLOADED = "overloaded"
    MESSAGE_TOO_LARGE = "message_too_large"
    ANSWER_TOO_LARGE = "answer_too_large"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    INFERENCE_FAILED = "inference_failed"
    SHUTTING_DOWN = "shutting_down"

    # A bundle or variant that cannot be used; the words of the update machine's reasons.
    BUNDLE_INVALID = "bundle_invalid"
    DIGEST_MISMATCH = "digest_mismatch"
    INCOMPATIBLE_HARDWARE = "incompatible_hardware"
    INCOMPATIBLE_RUNTIME = "incompatible_runtime"
    INCOMPATIBLE_SIGNATURE = "incompatible_signature"
    LOAD_FAILED = "load_failed"
    GOLDEN_MISMATCH = "golden_mismatch"
    WORKER_CRASHED = "worker_crashed"
    WORKER_HANG = "worker_hang"
    CRASH_LOOP = "crash_loop"
    MEMORY_SHORT = "memory_short"
    DEVICE_UNAVAILABLE = "device_unavailable"
    NOT_BUILT = "not_built"
    DERIVED_UNUSABLE = "derived_unusable"

    # What is published, and the way from there into the store.
    SIGNATURE_INVALID = "signature_invalid"
    METADATA_EXPIRED = "metadata_expired"
    ROLLBACK_ATTACK = "rollback_attack"
    DOWNLOAD_FAILED = "download_failed"
    STORAGE_FULL = "storage_full"
    PLAN_INVALID = "plan_invalid"
    REPOSITORY_INVALID = "repository_invalid"
    KEY_UNUSABLE = "key_unusable"

    # The daemon and its command line.
    SETTINGS_INVALID = "settings_invalid"
    ALREADY_RUNNING = "already_running"
    NOT_PERMITTED = "not_permitted"
    NOT_RUNNING = "not_running"
    CANNOT_LISTEN = "cannot_listen"
    JOURNAL_UNWRITABLE = "journal_unwritable"
    IDENTITY_INVALID = "identity_invalid"
    OS_FAILED = "os_failed"
    INTERNAL = "internal"


class EdgedError(Exception):
    """What happened, to which thing, with which value (`message`), and what to do about it (`hint`)."""

    def __init__(self, code: Code, message: str, hint: str = "") -> None:
        super().__init__(code, message, hint)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def in_a_line(self) -> str:
        """The first of its problems, and how many there are."""
        first, *others = str(self).splitlines()
        return f"{first} (and {len(others)} more)" if others else first
