"""Programs that the benchmarks start, each as `python -m`: their imports stay out of the process that measures."""
