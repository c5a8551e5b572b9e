"""Handlers of operations, one file per family; see ``executor/dispatch.py``."""
