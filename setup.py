"""Packages only: the folder ``plugins/`` installs as ``migproxy_plugins``, which pyproject.toml alone cannot say."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["migproxy", "migproxy.*"]) + ["migproxy_plugins"] + [f"migproxy_plugins.{name}" for name in find_packages("plugins")],
    package_dir={"migproxy_plugins": "plugins"},
    package_data={"": ["py.typed", "*.json", "*.toml", "data/*", "data/**/*"]},
)
