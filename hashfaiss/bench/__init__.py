"""Benchmarks: ratios between our own paths and their bounds, both measured in one run on one machine."""
