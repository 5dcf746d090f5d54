"""Damaged and hostile files against every parser: `python -m benchmarks.fuzz --seconds 30`."""
