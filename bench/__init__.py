"""Benchmarks by question; ``python -m bench --help``."""
