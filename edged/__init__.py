"""edged: serves machine-learning models on edge devices."""

__version__ = "0.1.0"
