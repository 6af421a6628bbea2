"""Chunks as a repository holds them: `chunks/ab/<sha256>.zst`, each one zstd frame that tells its size.

The digest is that of the content. Content that does not shrink costs the frame some ten bytes.
"""

from __future__ import annotations

import hashlib

import zstandard

# A frame may ask for so much memory to be unpacked; chunks are smaller.
_MAX_WINDOW_BYTES = 8 * 1024 * 1024


class DamagedChunkError(Exception):
    """What came is not the chunk that was asked for; the text says how."""


def place(digest: str) -> str:
    """Where the chunk of that digest lies below the repository."""
    return f"chunks/{digest[:2]}/{digest}.zst"


def packed_bound(length: int) -> int:
    """The most bytes that a chunk of `length` bytes takes when packed: zstd's own bound and a frame's header."""
    return length + (length >> 8) + 128


def pack(content: bytes, level: int = 9) -> bytes:
    """`content` as one frame."""
    return zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False).compress(content)


def unpack(raw: bytes, digest: str, length: int) -> bytes:
    """The content of a packed chunk. Raises DamagedChunkError unless it has this digest and length.

    No more than `length` bytes are made of it, whatever it says.
    """
    try:
        told = zstandard.get_frame_parameters(raw)
        if told.content_size != length or told.window_size > _MAX_WINDOW_BYTES:
            raise DamagedChunkError(f"says that it holds {told.content_size} bytes, not {length}")
        unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        content = unpacker.decompress(raw, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DamagedChunkError("is no chunk") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise DamagedChunkError("has another digest")
    return content
