"""migproxy: many functions share one GPU, each in a process that has none."""

from __future__ import annotations

__version__ = "0.1.0.dev0"
