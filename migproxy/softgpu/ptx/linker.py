"""Links several parsed PTX modules into one: definitions replace declarations."""

from __future__ import annotations

from collections.abc import Sequence

from migproxy.errors import PtxError
from migproxy.softgpu.ptx.ast import Module


def link_modules(modules: Sequence[Module]) -> Module:
    """One module with everything; two strong definitions of one name are an error.

    Names that a text keeps to itself (neither visible nor weak, common or extern) are not renamed apart: the compilers
    mangle them uniquely.
    """
    if len(modules) == 1:
        return modules[0]
    out = Module(version=modules[0].version, target=modules[0].target, text=modules[0].text)
    for module in modules:
        for name, function in module.functions.items():
            known = out.functions.get(name)
            if known is None or known.body is None:
                out.functions[name] = function
            elif function.body is not None and "weak" not in (known.linkage, function.linkage):
                raise PtxError(f"function {name} is defined twice", function.line)
        for name, variable in module.variables.items():
            other = out.variables.get(name)
            if other is None or (other.extern and not variable.extern):
                out.variables[name] = variable
            elif not variable.extern and not {"weak", "common"} & {other.linkage, variable.linkage}:
                raise PtxError(f"variable {name} is defined twice", variable.line)
    return out
