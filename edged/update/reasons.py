"""Why an update came to nothing: stable words, and what each of them means for the next time."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why an update ended without a new revision in service; once released, a word keeps its meaning."""

    SIGNATURE_INVALID = "signature_invalid"
    METADATA_EXPIRED = "metadata_expired"
    ROLLBACK_ATTACK = "rollback_attack"
    INCOMPATIBLE_HARDWARE = "incompatible_hardware"
    INCOMPATIBLE_RUNTIME = "incompatible_runtime"
    INCOMPATIBLE_SIGNATURE = "incompatible_signature"
    STORAGE_FULL = "storage_full"
    DOWNLOAD_FAILED = "download_failed"
    DIGEST_MISMATCH = "digest_mismatch"
    LOAD_FAILED = "load_failed"
    GOLDEN_MISMATCH = "golden_mismatch"
    LATENCY_BUDGET = "latency_budget"
    MEMORY_BUDGET = "memory_budget"
    SHADOW_DISAGREEMENT = "shadow_disagreement"
    ERROR_RATE = "error_rate"
    CRASH_LOOP = "crash_loop"
    WORKER_HANG = "worker_hang"
    OPERATOR = "operator"


# What the revision is to blame for, here and now: it is not tried again under the same key. Anything else may pass by
# itself, and the next poll tries again.
QUARANTINES = frozenset(
    {
        Reason.INCOMPATIBLE_RUNTIME,
        Reason.INCOMPATIBLE_SIGNATURE,
        Reason.LOAD_FAILED,
        Reason.GOLDEN_MISMATCH,
        Reason.LATENCY_BUDGET,
        Reason.MEMORY_BUDGET,
        Reason.SHADOW_DISAGREEMENT,
        Reason.ERROR_RATE,
        Reason.CRASH_LOOP,
        Reason.WORKER_HANG,
        Reason.OPERATOR,
    }
)
