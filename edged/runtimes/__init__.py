"""Engines, each behind the same small port; an engine's SDK is imported in its own file only."""
