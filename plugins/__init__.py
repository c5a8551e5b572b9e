"""The built-in plugins; each has a function half and an executor half and uses only migproxy's plugin interface.

PYTEST_DONT_REWRITE: see ``migproxy/__init__.py``.
"""
