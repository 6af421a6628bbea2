"""Nothing here waits for the disk."""

from support.quick_disk import short_pauses, unsynced

__all__ = ["short_pauses", "unsynced"]
