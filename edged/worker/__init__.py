"""Worker processes: the front's end (process, link) and the child's end (host, codec, batch, compare)."""
