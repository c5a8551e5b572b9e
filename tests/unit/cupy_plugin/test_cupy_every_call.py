"""Every function of the libraries is called once, through the stand-in, over the real encoding, on the software GPU's
libraries: it comes back, or with the library's own error.
"""

from __future__ import annotations

from collections import Counter
from importlib import import_module

import numpy as np
import pytest
from cupy_loopback import Loopback, loopback
from every_call import Arguments
from migproxy_plugins.cupy import roles, signatures, standin, tables
from migproxy_plugins.cupy.roles import Kind

__all__ = ["loopback"]

LIBRARIES = {
    short: name for name, short in tables.SHORT_NAMES.items() if short in ("cublas", "cusolver", "cusparse", "curand")
}
#: These answer with the number that stands for "not supported" where it means something else: a generator of 32-bit
#: values has a type error of that number for 64-bit ones.
OTHER_MEANING = {"generateLongLong"}


@pytest.mark.parametrize("short", LIBRARIES)
def test_every_function_can_be_called(short: str, loopback: Loopback):
    module = standin.make(LIBRARIES[short])
    errors = tuple(module._migproxy_library.errors.values())
    keep: list[np.ndarray] = []

    def place(array: np.ndarray) -> int:
        keep.append(array)
        return array.ctypes.data

    arguments = Arguments(module, place)
    ends: Counter[str] = Counter()
    refused = set()
    for name, doc in module._migproxy_library.facts["functions"].items():
        signature = signatures.parse(doc)
        found = roles.roles(short, signature)
        hosts = {
            argument.name
            for argument, role in zip(signature.arguments, found, strict=True)
            if role.kind in (Kind.IN, Kind.OUT, Kind.SCRATCH)
        }
        before = len(loopback.calls)
        try:
            given = arguments.make(signature, hosts)
        except errors as error:
            # The software GPU refuses the object that the function takes, so nobody can come to call it.
            assert error.status == standin.NOT_SUPPORTED[short]  # noqa: PT017
            continue
        try:
            getattr(module, name)(*given)
        except errors as error:
            ends[str(error)] += 1
            if error.status == standin.NOT_SUPPORTED[short]:
                refused.add(name)
        else:
            ends["ok"] += 1
        if not name.startswith(("check_status", "get_build", "is_cuda", "spGet", "getStream", "getPointerMode")):
            assert name in {called for called, _, _ in loopback.calls[before:]} or _local(module, name), name
        if len(keep) > 400:
            del keep[:]
            arguments = Arguments(module, place)
    # What the software GPU's library names as refused, and nothing else; on a GPU the real library serves them.
    assert refused - OTHER_MEANING <= import_module(f"migproxy.softgpu.libraries.{short}").REFUSED
    assert ends["ok"] >= 0.9 * (ends.total() - len(refused)), ends


def _local(module, name: str) -> bool:
    """Whether the function's side answers a function itself."""
    library = module._migproxy_library
    return hasattr(library, f"_local_{name}") or name in library.facts["values"] or roles.may_keep(library.short, name)
