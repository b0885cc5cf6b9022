"""A day's work on a GPU in one command, ``python -m benchmarks.gpu_day``; see docs/guides/gpu_day.md."""
