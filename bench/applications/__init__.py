"""Whole programs, natively and proxied: ``python -m bench.applications --help``."""
