"""Kernels that would use up the stack of their thread, and machine code that goes with its module."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

from migproxy.errors import KernelFault
from migproxy.softgpu.ptx import calls
from migproxy.softgpu.ptx.parser import parse

from . import kit

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
#: f(n) = n ? n + f(n - 1) : 0, by itself, by a second function, by its address in a variable
DIRECT = """
.func (.param .u32 r) f(.param .u32 n)
{ .reg .b32 %a; .reg .b32 %b; .reg .pred %p;
  ld.param.u32 %a, [n]; setp.ne.u32 %p, %a, 0; @%p bra MORE; st.param.u32 [r], 0; ret;
  MORE: sub.u32 %b, %a, 1;
  { .param .u32 x; .param .u32 y; st.param.u32 [x], %b; call (y), CALLEE, (x); ld.param.u32 %b, [y]; }
  add.u32 %a, %a, %b; st.param.u32 [r], %a; ret; }
"""
MUTUAL = DIRECT.replace(" f(", " g(").replace("CALLEE", "f")
POINTER = """
.func (.param .u32 r) f(.param .u32 n);
.global .u64 table = f;
""" + DIRECT.replace(
    "call (y), CALLEE, (x);",
    ".reg .b64 %t; ld.global.u64 %t, [table]; P: .callprototype (.param .u32 _) _ (.param .u32 _);"
    "call (y), %t, (x), P;",
)
KERNEL = """
.visible .entry k(.param .u32 n, .param .u64 out)
{ .reg .b32 %a; .reg .b64 %o; .reg .b32 %t; ld.param.u32 %a, [n]; ld.param.u64 %o, [out];
  { .param .u32 x; .param .u32 y; st.param.u32 [x], %a; call (y), f, (x); ld.param.u32 %a, [y]; }
  mov.u32 %t, %tid.x; mad.wide.u32 %o, %t, 4, %o; st.global.u32 [%o], %a; ret; }
"""
FORMS = {
    "direct": DIRECT.replace("CALLEE", "f"),
    "mutual": ".func (.param .u32 r) g(.param .u32 n);\n" + DIRECT.replace("CALLEE", "g") + MUTUAL,
    "pointer": POINTER,
}


@pytest.mark.parametrize("form", FORMS)
def test_recursion_without_an_end_is_a_fault(form: str) -> None:
    kernel = kit.load(HEAD + FORMS[form] + KERNEL).kernels["k"]
    out = np.zeros(3, np.uint32)
    kit.launch(kernel, 1, 3, np.uint32(1000), out)
    assert (out == 500500).all()
    found: list[KernelFault] = []

    def launch() -> None:
        with pytest.raises(KernelFault) as fault:
            kit.launch(kernel, 1, 3, np.uint32(2**32 - 1), out)
        found.append(fault.value)

    launch()
    other = threading.Thread(target=launch)  # whose stack is another one
    other.start()
    other.join(30)
    assert [fault.status for fault in found] == [714, 714]
    assert "stack overflow" in str(found[0])
    assert "kernel k, block (0, 0, 0), thread (0, 0, 0)" in str(found[0])
    kit.launch(kernel, 1, 3, np.uint32(10), out)
    assert (out == 55).all()


def test_which_functions_may_call_themselves() -> None:
    leaf = ".func h() { ret; }\n"
    assert calls.recursive(parse(HEAD + leaf + FORMS["direct"] + KERNEL)) == {"f"}
    assert calls.recursive(parse(HEAD + FORMS["mutual"] + KERNEL)) == {"f", "g"}
    assert calls.recursive(parse(HEAD + FORMS["pointer"] + KERNEL)) == {"f"}


def test_allocations_on_the_stack_have_a_limit() -> None:
    text = """
    .visible .entry k(.param .u64 n, .param .u64 out)
    { .reg .b64 %n; .reg .b64 %o; .reg .b64 %p; ld.param.u64 %n, [n]; ld.param.u64 %o, [out];
      alloca.u64 %p, %n; st.local.u64 [%p], %n; ld.local.u64 %n, [%p]; st.global.u64 [%o], %n; ret; }
    """
    kernel = kit.load(HEAD + text).kernels["k"]
    out = np.zeros(1, np.uint64)
    kit.launch(kernel, 1, 1, np.uint64(100_000), out)
    assert out[0] == 100_000
    with pytest.raises(KernelFault) as fault:
        kit.launch(kernel, 1, 1, np.uint64(1 << 30), out)
    assert fault.value.status == 714


def test_machine_code_goes_with_its_module() -> None:
    module = kit.load(HEAD + ".visible .entry k() { ret; }")
    kernel = module.kernels["k"]
    kit.launch(kernel, 1, 1)
    assert kernel._code is not None
    engine = weakref.ref(kernel._code.engine)
    del module, kernel
    gc.collect()
    assert engine() is None
