"""What is claimed about edged's speed and size, measured: see docs/benchmarks.md."""
