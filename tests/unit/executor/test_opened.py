"""A device opened in advance, and plugins prepared, before a session is there; what fails then fails later too."""

from __future__ import annotations

import logging

import pytest

from migproxy.errors import CudaError
from migproxy.executor import opened, plugin_host


@pytest.mark.parametrize(("visible", "told"), [("", "1"), ("GPU-1", "0"), ("GPU-1", "")])
def test_nothing_is_opened_in_advance_unless_told(monkeypatch: pytest.MonkeyPatch, visible: str, told: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv(opened.OPEN_VARIABLE, told)
    monkeypatch.setattr(opened, "open_device", lambda _: pytest.fail("opened"))
    assert opened.open_in_advance() is None


def test_a_device_that_does_not_open_is_left_to_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> opened.OpenDevice:
        raise CudaError(100, "no device")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    monkeypatch.setenv("CUDA_CACHE_DISABLE", "0")
    monkeypatch.setenv(opened.OPEN_VARIABLE, "1")
    monkeypatch.setattr(opened, "open_device", broken)
    assert opened.open_in_advance() is None


def test_an_open_device_says_what_it_is() -> None:
    device = opened.open_device("software")
    assert device.driver.kind == "software"
    assert device.driver.out("cuCtxGetCurrent") == device.context
    assert device.context_bytes == 0


def test_a_plugin_that_cannot_be_prepared_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(group: str) -> list[object]:
        raise ImportError("gone")

    monkeypatch.setattr(plugin_host, "entry_points", broken)
    with caplog.at_level(logging.WARNING, "migproxy.executor"):
        plugin_host.preload("wonder")
    assert "plugin 'wonder' cannot be prepared: ImportError: gone" in caplog.text
    plugin_host.preload("")
