"""The TOML file: every key documented, wrong ones refused with the place and the nearest known one."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from migproxy.broker.config import BrokerConfig, Limits, SliceSettings
from migproxy.broker.configfile import known_keys, read_config
from migproxy.broker.main import divide
from migproxy.device.inventory import Slice
from migproxy.errors import UsageError

DOCS = Path(__file__).resolve().parents[3] / "docs" / "broker.md"


def read(tmp_path: Path, text: str) -> BrokerConfig:
    path = tmp_path / "broker.toml"
    path.write_text(text)
    return read_config(str(path), BrokerConfig(""))


def test_settings_arrive(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        'socket = "/run/x.sock"\ndevices = ["0", "software"]\ndefault_memory = "2GiB"\nmax_memory = 4096\n'
        'mode = "overlap_cpu"\npolicy = "fifo"\nkernel_seconds = 2\nallow_uids = [7]\nallow_all = true\n'
        '[limits]\nsessions = 3\nwait_seconds = 1.5\n[slices.gpu0]\npolicy = "deadline"\n',
    )
    assert (config.socket, config.devices, config.default_memory, config.max_memory) == (
        "/run/x.sock", ("gpu0", "software"), 2 << 30, 4096,
    )  # fmt: skip
    assert (config.mode, config.policy, config.kernel_seconds, config.allow_uids) == ("overlap_cpu", "fifo", 2.0, (7,))
    assert config.limits == Limits(sessions=3, wait_seconds=1.5)
    assert config.slices == {"gpu0": SliceSettings(policy="deadline")}


def test_a_kernel_keeps_a_shared_slice_for_a_minute_at_most_unless_somebody_says_so(tmp_path: Path) -> None:
    assert BrokerConfig("").patience(leased=True) == 60
    assert BrokerConfig("").patience(leased=False) == 0
    assert read(tmp_path, "kernel_seconds = 0").patience(leased=True) == 0
    assert read(tmp_path, "kernel_seconds = 2.5").patience(leased=False) == 2.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sokcet = 'x'", "'sokcet' is not known; did you mean 'socket'?"),
        ("limits.sesions = 1", "limits.sesions: 'sesions' is not known; did you mean 'sessions'?"),
        ("mode = 'overlap_cpus'", "mode: 'overlap_cpus' is not known; did you mean 'overlap_cpu'?"),
        ("policy = 'best'", "it is one of fifo, gpu_time, priority, deadline"),
        ("default_memory = 'much'", "default_memory: bad size 'much'"),
        ("warm = true", "warm: a whole number is needed"),
        ("warm = -1", "warm: a whole number is needed"),
        ("devices = 'auto'", "devices: a list is needed"),
        ("devices = ['toaster']", "devices[0]: unknown device"),
        ("limits = 3", "limits: a table is needed"),
        ("unisolated_slices.a.memory = 5", "unisolated_slices.a: device must be given"),
        ("socket =", "is no TOML file"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UsageError, match=r"cannot read /none\.toml: No such file"):
        read_config("/none.toml", BrokerConfig(""))


def test_every_key_is_documented_and_every_setting_is_a_key_or_internal() -> None:
    text = DOCS.read_text()
    assert [key for key in known_keys() if f"`{key}`" not in text] == []
    internal = {"private", "parent_pid", "executor_command"}
    tops = {key.partition(".")[0] for key in known_keys()}
    assert {each.name for each in fields(BrokerConfig)} - internal == tops


def test_unisolated_slices_take_their_devices_place(tmp_path: Path) -> None:
    gpu = Slice("gpu0", "gpu", "GPU-1", 8 << 30, 0, "GPU-11111111")
    text = "[unisolated_slices.{}]\ndevice = '0'\nmemory = '{}'\n"
    config = read(tmp_path, text.format("left", "3GiB") + text.format("right", "5GiB"))
    parts = divide([gpu], config)
    assert [(each.name, each.memory >> 30, each.visible) for each in parts] == [
        ("left", 3, "GPU-1"),
        ("right", 5, "GPU-1"),
    ]
    with pytest.raises(UsageError, match="exceed its 8GiB"):
        divide([gpu], read(tmp_path, text.format("left", "4GiB") + text.format("right", "5GiB")))
    with pytest.raises(UsageError, match="no device"):
        divide([], config)
    with pytest.raises(UsageError, match="slices: 'gpu1' is not known; did you mean 'gpu0'"):
        divide([gpu], read(tmp_path, "[slices.gpu1]\nmode = 'sequential'"))
