"""What nvrtc's seam makes of CuPy's options, and of the images that it asks for, on the software GPU and elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from migproxy_plugins.cupy import nvrtc

from migproxy.softgpu import container

PTX = b".visible .entry k() {}\0"


class FakeNvrtc:
    def __init__(self) -> None:
        self.options: dict[int, list[str]] = {}

    def compileProgram(self, program: int, options: Any) -> None:
        self.options[program] = list(options)

    def getCUBIN(self, program: int) -> bytes:
        return b"cubin"

    def getLTOIR(self, program: int) -> bytes:
        return b"LTO-IR"

    def getPTX(self, program: int) -> bytes:
        return PTX

    def destroyProgram(self, program: int) -> None:
        del self.options[program]


@pytest.fixture
def real() -> FakeNvrtc:
    return FakeNvrtc()


@pytest.fixture
def seam(real: FakeNvrtc) -> nvrtc.Seam:
    return nvrtc.Seam(real)  # type: ignore[arg-type]


def test_the_software_gpu_gets_ptx(real: FakeNvrtc, seam: nvrtc.Seam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "software", lambda: True)
    seam.compile_program(1, ["-dlto", "-Ix", "-arch=compute_80"])
    assert real.options[1] == ["--relocatable-device-code=true", "-Ix", "-arch=compute_80"]
    assert container.unwrap(seam.get_lto_ir(1)) == [PTX.rstrip(b"\0")]
    seam.compile_program(2, ["-arch=sm_90a"])
    assert real.options[2] == ["-arch=compute_90a"]
    assert container.unwrap(seam.get_cubin(2)) == [PTX.rstrip(b"\0")]
    seam.destroy_program(1)
    seam.compile_program(1, ["-arch=compute_80"])
    assert seam.get_cubin(1) == b"cubin", "what another program of this number was asked for is forgotten"


def test_a_real_gpu_gets_what_it_asked_for(real: FakeNvrtc, seam: nvrtc.Seam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "software", lambda: False)
    seam.compile_program(1, ("-dlto", "-arch=sm_80"))
    assert real.options[1] == ["-dlto", "-arch=sm_80"]
    assert (seam.get_lto_ir(1), seam.get_cubin(1)) == (b"LTO-IR", b"cubin")
