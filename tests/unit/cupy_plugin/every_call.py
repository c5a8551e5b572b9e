"""Arguments for one call of every function of cuBLAS, cuSOLVER, cuSPARSE and cuRAND: small, and valid where that can be
told from the names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from migproxy_plugins.cupy import signatures
from migproxy_plugins.cupy.device_arguments import NUMBERS

#: What pointers to each kind of memory hold; the first name that fits decides.
_CONTENTS: tuple[tuple[str, Callable[[], np.ndarray[Any, Any]]], ...] = (
    (r"[ABC]array", lambda: np.zeros(64, np.uint64)),  # addresses, filled in later
    (r"devIpiv|dipiv|ipiv|PivotArray", lambda: np.tile(np.arange(1, 3, dtype=np.int32), 512)),
    (r".*([rR]owPtr|[cC]olPtr|Offsets).*", lambda: np.arange(1024, dtype=np.int32)),
    (r".*(ColInd|RowInd|Colind|cooRows|cooCols|indices).*", lambda: np.tile(np.arange(2, dtype=np.int32), 512)),
    (r".*", lambda: np.zeros(8192)),
)
_SIZES = r"[mnk]|mb|nnz\w*|rows|cols|size|ld\w*|nrhs|inc[xy]|blockDim|inNnz|maxite|rank|num"
_OBJECTS: tuple[tuple[str, str, str], ...] = (
    # functions, argument, what makes it
    (r"(?!sp).*", r"descr[ABCD]?", "createMatDescr"),
    (r".bsric02.*|xbsric02.*|destroyBsric02Info", "info", "createBsric02Info"),
    (r".bsrilu02.*|xbsrilu02.*|destroyBsrilu02Info", "info", "createBsrilu02Info"),
    (r".csric02.*|xcsric02.*|destroyCsric02Info", "info", "createCsric02Info"),
    (r".csrilu02.*|xcsrilu02.*|destroyCsrilu02Info", "info", "createCsrilu02Info"),
    (r".*gesvdj.*", "params", "createGesvdjInfo"),
    (r"xgesvdj[GS]et.*|destroyGesvdjInfo", "info", "createGesvdjInfo"),
    (r".*(syevj|heevj).*", "params", "createSyevjInfo"),
    (r"xsyevj[GS]et.*|destroySyevjInfo", "info", "createSyevjInfo"),
    (r".*", "params", "createParams"),
    (r"denseToSparse.*|spM[MVS].*|spGE.*|sparseToDense.*", "matA", "matrix"),
    (r"sp(MM|SM).*|sparseToDense.*", "matB", "dense"),
    (r"denseToSparse.*|spGE.*", "matB", "matrix"),
    (r"sp(MM|SM).*", "matC", "dense"),
    (r"spGE.*", "matC", "matrix"),
    (r"spVV.*|gather", "vecX", "sparse vector"),
    (r".*", "vec[XY]", "vector"),
    (r"(coo|csr|spMat).*|destroySpMat", "desc|spMatDescr", "matrix"),
    (r"dnMat.*|destroyDnMat", "desc", "dense"),
    (r"dnVec.*|destroyDnVec", "desc", "vector"),
    (r"spVec.*|destroySpVec", "desc", "sparse vector"),
    (r"spGEMM.*", "spgemmDescr|descr", "spGEMM_createDescr"),
    (r"spGEAM.*", "spgeamDescr|descr", "spGEAM_createDescr"),
    (r"spSM.*", "spsmDescr|descr", "spSM_createDescr"),
    (r"sp(Destroy|[GS]etStream)|.csr(lsv|eigvsi).*", "handle", "spCreate"),
    (r".*", "handle", "create"),
    (r".*", "generator", "createGenerator"),
)


class Arguments:
    """Makes arguments for the functions of one stand-in.

    Parameters
    ----------
    module : ModuleType
        The stand-in.
    place : callable
        Puts an array where the library may use it, and returns the address.
    """

    def __init__(self, module: ModuleType, place: Callable[[np.ndarray[Any, Any]], int]) -> None:
        self.module = module
        self._place = place
        self._spare = place(np.zeros(8192))

    def make(self, signature: signatures.Signature, hosts: set[str]) -> list[Any]:
        """Return the arguments; those named in `hosts` are host memory, and always get their own."""
        return [self._one(signature.name, argument, argument.name in hosts) for argument in signature.arguments]

    def _one(self, function: str, argument: signatures.Argument, host: bool) -> Any:
        name, ctype = argument.name, argument.ctype
        wide = ctype in ("size_t", "intptr_t")
        if not host and wide:
            for functions, names, maker in _OBJECTS:
                if re.fullmatch(names, name) and re.fullmatch(functions, function) and self._has(maker):
                    return self._object(maker)
        if re.fullmatch(_SIZES, name) and (not wide or name in NUMBERS):
            return 2
        if re.fullmatch(r"lwork|workspaceInBytes\w+|bufferSize", name):
            return 4096
        if name in ("batchCount", "batchSize", "stride"):
            return 1
        if re.fullmatch(r"stride\w|batchStride", name):
            return 4
        if wide and name not in ("dataTypeA", "stream"):
            return self._memory(name)
        if ctype in ("float", "double"):
            return 1.0
        return {"jobu": ord("N"), "jobvt": ord("N"), "rng_type": 100, "order": 1, "IndexType": 2}.get(
            name, 2 if ctype == "IndexType" else 0
        )

    def _has(self, maker: str) -> bool:
        return " " in maker or maker in ("matrix", "dense", "vector") or hasattr(self.module, maker)

    def _memory(self, name: str) -> int:
        contents = next(make for pattern, make in _CONTENTS if re.fullmatch(pattern, name))()
        if contents.dtype == np.uint64:
            contents[:] = self._spare
        return self._place(contents)

    def _object(self, maker: str) -> int:
        module, memory = self.module, self._memory
        if maker == "matrix":
            return int(module.createCsr(2, 2, 2, memory("csrRowPtr"), memory("csrColInd"), memory("v"), 2, 2, 0, 0))
        if maker == "dense":
            return int(module.createDnMat(2, 2, 2, memory("v"), 0, 1))
        if maker == "vector":
            return int(module.createDnVec(2, memory("v"), 0))
        if maker == "sparse vector":
            return int(module.createSpVec(2, 2, memory("indices"), memory("v"), 2, 0, 0))
        if maker == "createGenerator":
            return int(module.createGenerator(100))
        return int(getattr(module, maker)())
