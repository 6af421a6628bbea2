"""Simulators that implement the real ports and offer faults as verbs."""
