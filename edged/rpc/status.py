"""Errors as gRPC statuses."""

from __future__ import annotations

import grpc

from edged.errors import Code

STATUS = {
    Code.MALFORMED_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Code.INVALID_TENSOR: grpc.StatusCode.INVALID_ARGUMENT,
    Code.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Code.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    Code.MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.REVISION_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.REVISION_NOT_SERVED: grpc.StatusCode.FAILED_PRECONDITION,
    Code.REGION_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.REGION_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Code.REGION_UNUSABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Code.MODEL_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.MESSAGE_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.ANSWER_TOO_LARGE: grpc.StatusCode.OUT_OF_RANGE,
    Code.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.CANCELLED: grpc.StatusCode.CANCELLED,
    Code.INFERENCE_FAILED: grpc.StatusCode.INTERNAL,
    Code.SHUTTING_DOWN: grpc.StatusCode.UNAVAILABLE,
    Code.BUNDLE_INVALID: grpc.StatusCode.FAILED_PRECONDITION,
    Code.DIGEST_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Code.INCOMPATIBLE_HARDWARE: grpc.StatusCode.FAILED_PRECONDITION,
    Code.INCOMPATIBLE_RUNTIME: grpc.StatusCode.FAILED_PRECONDITION,
    Code.INCOMPATIBLE_SIGNATURE: grpc.StatusCode.FAILED_PRECONDITION,
    Code.LOAD_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    Code.GOLDEN_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Code.WORKER_CRASHED: grpc.StatusCode.UNAVAILABLE,
    Code.WORKER_HANG: grpc.StatusCode.UNAVAILABLE,
    Code.CRASH_LOOP: grpc.StatusCode.FAILED_PRECONDITION,
    Code.MEMORY_SHORT: grpc.StatusCode.FAILED_PRECONDITION,
    Code.NOT_BUILT: grpc.StatusCode.FAILED_PRECONDITION,
    Code.DERIVED_UNUSABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Code.SIGNATURE_INVALID: grpc.StatusCode.FAILED_PRECONDITION,
    Code.METADATA_EXPIRED: grpc.StatusCode.FAILED_PRECONDITION,
    Code.ROLLBACK_ATTACK: grpc.StatusCode.FAILED_PRECONDITION,
    Code.DOWNLOAD_FAILED: grpc.StatusCode.UNAVAILABLE,
    Code.STORAGE_FULL: grpc.StatusCode.FAILED_PRECONDITION,
    Code.PLAN_INVALID: grpc.StatusCode.FAILED_PRECONDITION,
    Code.REPOSITORY_INVALID: grpc.StatusCode.FAILED_PRECONDITION,
    Code.KEY_UNUSABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Code.SETTINGS_INVALID: grpc.StatusCode.FAILED_PRECONDITION,
    Code.ALREADY_RUNNING: grpc.StatusCode.FAILED_PRECONDITION,
    Code.NOT_PERMITTED: grpc.StatusCode.PERMISSION_DENIED,
    Code.NOT_RUNNING: grpc.StatusCode.UNAVAILABLE,
    Code.CANNOT_LISTEN: grpc.StatusCode.FAILED_PRECONDITION,
    Code.JOURNAL_UNWRITABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Code.IDENTITY_INVALID: grpc.StatusCode.FAILED_PRECONDITION,
    Code.OS_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
}

# The trailing metadata entry by which programs learn the stable code.
CODE_KEY = "edged-code"
