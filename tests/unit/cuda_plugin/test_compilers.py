"""The compiler seams: which options change, what the container holds. The compilers are the installed ones."""

from __future__ import annotations

import subprocess
import sys

import pytest
from migproxy_plugins.cuda.compilers import looks_like_ptx, virtual_architecture

SCRIPT = r"""
import types
from migproxy.session import api
api.device_facts = lambda: types.SimpleNamespace(kind="KIND")
import migproxy_plugins.cuda.compilers as seams
from migproxy.interpose import hook
hook.after_import("cuda.bindings.cynvrtc", seams.patch_cynvrtc)
hook.after_import("cuda.bindings.cynvjitlink", seams.patch_cynvjitlink)
hook.install()
from cuda.bindings import nvjitlink, nvrtc
from migproxy.softgpu import container

def ok(result):
    assert result[0] == 0, result
    return result[1] if len(result) > 1 else None

def compiled(source, *options):
    program = ok(nvrtc.nvrtcCreateProgram(source, b"t.cu", 0, [], []))
    ok(nvrtc.nvrtcCompileProgram(program, len(options), list(options)))
    return program

def cubin(program):
    buffer = b" " * ok(nvrtc.nvrtcGetCUBINSize(program))
    ok(nvrtc.nvrtcGetCUBIN(program, buffer))
    return buffer

def ltoir(program):
    buffer = b" " * ok(nvrtc.nvrtcGetLTOIRSize(program))
    ok(nvrtc.nvrtcGetLTOIR(program, buffer))
    return buffer

def link(options, *inputs):
    handle = nvjitlink.create(len(options), options)
    for kind, data in inputs:
        nvjitlink.add_data(handle, kind, data, len(data), "input")
    nvjitlink.complete(handle)
    buffer = bytearray(nvjitlink.get_linked_cubin_size(handle))
    nvjitlink.get_linked_cubin(handle, buffer)
    nvjitlink.destroy(handle)
    return bytes(buffer)

F = b'extern "C" __device__ int f(int x) { return 2 * x; }'
G = b'extern "C" __device__ int f(int); extern "C" __global__ void g(int *p) { *p = f(*p); }'
"""
SOFTWARE = r"""
image = cubin(compiled(G, b"-arch=sm_90", b"-rdc=true"))
assert container.is_container(image) and container.kernel_names(image) == ["g"], image[:16]
other = cubin(compiled(F, b"-arch", b"sm_90", b"-rdc=true"))
P, L, C = nvjitlink.InputType.PTX, nvjitlink.InputType.LTOIR, nvjitlink.InputType.CUBIN
linked = link(["-arch=sm_90"], (C, image), (P, container.unwrap(other)[0]))
assert len(container.unwrap(linked)) == 2
parts = [(L, ltoir(compiled(s, b"-arch=sm_90", b"-dlto"))) for s in (F, G)]
linked = link(["-arch=sm_90", "-lto"], *parts)
assert len(container.unwrap(linked)) == 1 and container.kernel_names(linked) == ["g"]
try:
    link(["-arch=sm_90"], (nvjitlink.InputType.OBJECT, b"\x7fELF...."))
except nvjitlink.nvJitLinkError as error:
    assert "UNRECOGNIZED_INPUT" in str(error), error
else:
    raise AssertionError
program = ok(nvrtc.nvrtcCreateProgram(b"nonsense", b"t.cu", 0, [], []))
assert nvrtc.nvrtcCompileProgram(program, 1, [b"-arch=sm_90"])[0] == nvrtc.nvrtcResult.NVRTC_ERROR_COMPILATION
"""
GPU = r"""
assert cubin(compiled(G.replace(b"f(*p)", b"1"), b"-arch=sm_90"))[:4] == b"\x7fELF"
"""


@pytest.mark.parametrize(("kind", "script"), [("software", SOFTWARE), ("gpu", GPU)])
def test_seams_with_the_real_compilers(kind: str, script: str) -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    pytest.importorskip("nvidia.nvjitlink")
    text = SCRIPT.replace("KIND", kind) + script
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr


def test_architectures() -> None:
    given = [
        b"-arch=sm_90",
        b"--gpu-architecture=sm_90a",
        b"-arch",
        b"sm_80",
        b"-DX=sm_90",
        b"sm_70",
        b"-arch=compute_80",
    ]
    assert virtual_architecture(given) == [
        b"-arch=compute_90",
        b"--gpu-architecture=compute_90a",
        b"-arch",
        b"compute_80",
        b"-DX=sm_90",
        b"sm_70",
        b"-arch=compute_80",
    ]


def test_what_counts_as_ptx() -> None:
    assert looks_like_ptx(b"//\n.version 8.0\n.target sm_90\n\0")
    assert not looks_like_ptx(b"\x7fELF\0\0.version")
    assert not looks_like_ptx(b"hello")
