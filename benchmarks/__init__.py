"""Side-by-side measurements, each runnable alone: `python -m benchmarks.NAME`. The last line of each is JSON."""
