"""The stand-ins of modules that take arrays: one file per module."""
