"""A broker's settings from a TOML file. Unknown keys are refused with the nearest known one; docs/broker.md lists
them all."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from migproxy.abi.lease import MODES
from migproxy.broker.config import BrokerConfig, Limits, SliceSettings, Unisolated
from migproxy.device.choose import check_name
from migproxy.errors import UsageError
from migproxy.scheduler.policy import POLICIES
from migproxy.sizes import parse_size


def one_of(where: str, value: str, known: Sequence[str]) -> str:
    """Return `value` if it is known.

    Raises
    ------
    UsageError
        It is not; the message names the nearest known one, or all.
    """
    if value in known:
        return value
    near = difflib.get_close_matches(str(value), known, 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"it is one of {', '.join(known)}"
    raise UsageError(f"{where}: {value!r} is not known; {hint}")


def _typed(kind: type, words: str) -> Callable[[str, Any], Any]:
    def check(where: str, value: Any) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UsageError(f"{where}: {words} is needed, not {value!r}")
        return value

    return check


_text = _typed(str, "a string")
_flag = _typed(bool, "true or false")


def _count(where: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError(f"{where}: a whole number is needed, not {value!r}")
    return value


def _seconds(where: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
        raise UsageError(f"{where}: a number of seconds is needed, not {value!r}")
    return float(value)


def _size(where: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    try:
        return parse_size(_text(where, value))
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _list(each: Callable[[str, Any], Any]) -> Callable[[str, Any], tuple[Any, ...]]:
    def check(where: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise UsageError(f"{where}: a list is needed, not {value!r}")
        return tuple(each(f"{where}[{index}]", item) for index, item in enumerate(value))

    return check


def _mode(where: str, value: Any) -> str:
    return one_of(where, _text(where, value), MODES)


def _policy(where: str, value: Any) -> str:
    return one_of(where, _text(where, value), tuple(POLICIES))


def _device(where: str, value: Any) -> str:
    try:
        return check_name(_text(where, value))
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


_LIMITS: dict[str, Callable[[str, Any], Any]] = {
    "sessions": _count,
    "arena_bytes": _size,
    "handles": _count,
    "modules": _count,
    "kernels": _count,
    "connections": _count,
    "start_seconds": _seconds,
    "hello_seconds": _seconds,
    "end_seconds": _seconds,
    "wait_seconds": _seconds,
    "waiting": _count,
}
_SLICE: dict[str, Callable[[str, Any], Any]] = {"mode": _mode, "policy": _policy}
_UNISOLATED: dict[str, Callable[[str, Any], Any]] = {"device": _device, "memory": _size}


def _section(known: Mapping[str, Callable[[str, Any], Any]], where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: a table is needed, not {value!r}")
    prefix = f"{where}." if where else ""
    found = {}
    for key, item in value.items():
        one_of(f"{prefix}{key}" if where else "the configuration", key, tuple(known))
        found[key] = known[key](f"{prefix}{key}", item)
    return found


def _limits(where: str, value: Any) -> Limits:
    return Limits(**_section(_LIMITS, where, value))


def _slices(where: str, value: Any) -> dict[str, SliceSettings]:
    tables = _section({name: _typed(dict, "a table") for name in value}, where, value)
    return {name: SliceSettings(**_section(_SLICE, f"{where}.{name}", table)) for name, table in tables.items()}


def _unisolated(where: str, value: Any) -> dict[str, Unisolated]:
    found = {}
    for name, table in _section({name: _typed(dict, "a table") for name in value}, where, value).items():
        settings = _section(_UNISOLATED, f"{where}.{name}", table)
        missing = [key for key in _UNISOLATED if key not in settings]
        if missing:
            raise UsageError(f"{where}.{name}: {' and '.join(missing)} must be given")
        found[name] = Unisolated(**settings)
    return found


_KEYS: dict[str, Callable[[str, Any], Any]] = {
    "socket": _text,
    "devices": _list(_device),
    "software_memory": _size,
    "default_memory": _size,
    "max_memory": _size,
    "heap_bytes": _size,
    "allow_uids": _list(_count),
    "allow_all": _flag,
    "mode": _mode,
    "policy": _policy,
    "max_priority": _count,
    "kernel_seconds": _seconds,
    "usage_seconds": _seconds,
    "plugins": _list(_text),
    "cache_dir": _text,
    "log_file": _text,
    "warm": _count,
    "executor_uid": _count,
    "metrics_port": _count,
    "limits": _limits,
    "slices": _slices,
    "unisolated_slices": _unisolated,
}


def read_config(path: str, base: BrokerConfig) -> BrokerConfig:
    """Return `base` with the settings of the TOML file at `path`.

    Raises
    ------
    UsageError
        The file cannot be read, or says something that is not known or not possible; the message says where.
    """
    try:
        with open(path, "rb") as file:
            data = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML file: {error}") from None
    try:
        return replace(base, **_section(_KEYS, "", data))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def known_keys() -> list[str]:
    """Return every key, sections' keys with their section's name before them."""
    inner = {"limits": _LIMITS, "slices": _SLICE, "unisolated_slices": _UNISOLATED}
    keys = []
    for key in _KEYS:
        if key in inner:
            infix = "" if key == "limits" else ".NAME"
            keys += [f"{key}{infix}.{name}" for name in inner[key]]
        else:
            keys.append(key)
    return keys


assert set(_KEYS) <= {each.name for each in fields(BrokerConfig)}
