"""Bundles: one immutable release of a model, its files and its manifest."""
