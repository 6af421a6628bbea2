"""Settings: fragments found and read, merged, checked, and shown again with where each value came from."""
