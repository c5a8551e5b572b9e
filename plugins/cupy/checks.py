"""What a library answers with an error before it does anything: invalid sizes, leading dimensions and modes.

Calls without a result do not wait for the executor, so the function's side tells these errors itself, in the call, as
the library does. A rule here is one that the library's manual states for that function, and it is sure: where a library
returns early for an empty operand, the rules on leading dimensions say nothing. What a rule does not see (types that do
not go together, a workspace that is too small) the library finds in the executor, and the error comes at the next
library call or synchronisation: see `calls.call`.

Conditions are Python expressions over the function's argument names; each is true of an invalid call.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from migproxy_plugins.cupy.signatures import Signature

#: "Not initialised" (no handle) and "invalid value", in each library's own numbering.
NO_HANDLE = {"cublas": 1, "cusolver": 1, "cusparse": 1, "curand": 101}
INVALID_VALUE = {"cublas": 7, "cusolver": 3, "cusparse": 3}
_GENERATORS = (100, 101, 121, 141, 142, 161, 200, 201, 202, 203, 204)
_TYPE_ERROR, _OUT_OF_RANGE = 103, 104

# library → (pattern of functions, names that must not be negative, conditions, status or None for "invalid value");
# all that fit apply, in order.
_Rule = tuple[str, str, tuple[str, ...], int | None]
_RULES: dict[str, tuple[_Rule, ...]] = {
    "cublas": (
        (
            r".?gemm(Batched|StridedBatched)?(Ex)?",
            "m n k",
            (
                "transa not in (0, 1, 2, 3)",
                "transb not in (0, 1, 2, 3)",
                "min(m, n, k) > 0 and (lda < (k if transa else m) or ldb < (n if transb else k) or ldc < m)",
            ),
            None,
        ),
        (r".gemm(Strided)?Batched|gemmBatchedEx|.trsmBatched", "batchCount", (), None),
        (r".ger[cu]?", "m n", ("incx == 0", "incy == 0", "min(m, n) > 0 and lda < m"), None),
        (
            r".geam",
            "m n",
            (
                "transa not in (0, 1, 2, 3)",
                "transb not in (0, 1, 2, 3)",
                # With a factor of zero an operand may be anything, and its leading dimension, too.
                "min(m, n) > 0 and ldc < m",
            ),
            None,
        ),
        (r".dgmm", "m n", ("mode not in (0, 1)", "min(m, n) > 0 and (lda < m or ldc < m)"), None),
        (
            r".syrk",
            "n k",
            (
                "uplo not in (0, 1)",
                "trans not in (0, 1, 2)",
                "min(n, k) > 0 and (lda < (k if trans else n) or ldc < n)",
            ),
            None,
        ),
        (
            r".trsm(Batched)?",
            "m n",
            (
                "side not in (0, 1)",
                "uplo not in (0, 1)",
                "trans not in (0, 1, 2)",
                "diag not in (0, 1)",
                "min(m, n) > 0 and (lda < (n if side else m) or ldb < m)",
            ),
            None,
        ),
        (r".sbmv", "n k", ("uplo not in (0, 1)", "incx == 0", "incy == 0"), None),
        (r".(tpttr|trttp)", "n", ("uplo not in (0, 1)", "n > 0 and lda < n"), None),
        (r".getr[fi]Batched", "n lda batchSize", (), None),
        (r"setPointerMode", "", ("mode not in (0, 1)",), None),
    ),
    "cusolver": (
        # Most functions that tell a workspace's size answer for any size.
        (r".(potrf|sytrf)", "n", ("n > 0 and lda < n",), None),
        (r".(potrf|potrs)(_bufferSize)?|.(syevd|heevd|syevj|heevj)", "", ("uplo not in (0, 1)",), None),
        (r".potrs(_bufferSize)?", "n nrhs", ("n > 0 and (lda < n or ldb < n)",), None),
        (r".(geqrf|gebrd|gesvd|gesvdj)", "m n", ("min(m, n) > 0 and lda < m",), None),
        (r".getrs(_bufferSize)?", "n nrhs", ("trans not in (0, 1, 2)", "n > 0 and (lda < n or ldb < n)"), None),
        (
            r".(ormqr|unmqr)",
            "m n k",
            (
                "side not in (0, 1)",
                "trans not in (0, 1, 2)",
                "min(m, n, k) > 0 and (lda < (n if side else m) or ldc < m)",
            ),
            None,
        ),
        (r".(orgqr|ungqr)", "m n k", ("n > m", "k > n", "min(m, n) > 0 and lda < m"), None),
        (r"[sdcz](syevd|heevd|syevj|heevj)(_bufferSize)?|xsyevd", "n", (), None),
        (r".(syevd|heevd|syevj|heevj)", "", ("jobz not in (0, 1)", "n > 0 and lda < n"), None),
        (r".potr[fs]Batched(_bufferSize)?", "n batchSize", ("uplo not in (0, 1)", "n > 0 and lda < n"), None),
        (r".(syevj|heevj)Batched(_bufferSize)?", "n", (), None),
        (r".(syevj|heevj)Batched_bufferSize", "batchSize", (), None),
        (r".(syevj|heevj)Batched", "", ("jobz not in (0, 1)",), None),
        (r".gesvdjBatched", "n batchSize", ("jobz not in (0, 1)",), None),
    ),
    "cusparse": (
        (r"create(Coo|Csc|Csr)", "rows cols nnz", (), None),
        (r"createDnMat", "rows cols", ("min(rows, cols) > 0 and ld < (cols if order == 2 else rows)",), None),
        (r"createDnVec", "size", (), None),
        (r"createSpVec", "size nnz", (), None),
        (r".csrgeam2|xcsrgeam2Nnz", "m n nnzA nnzB", (), None),
        (r"x(csr|csc)sort|xcoosortBy(Row|Column)|csr2cscEx2", "m n nnz", (), None),
        (r".gtsv2(_nopivot)?", "m n", ("m > 0 and n > 0 and ldb < m",), None),
        (r".csr(ilu|ic)02(_analysis)?", "m nnz", (), None),
        (r".bsr(ilu|ic)02(_analysis)?", "mb nnzb", ("blockDim <= 0",), None),
        (r"setPointerMode", "", ("mode not in (0, 1)",), None),
    ),
    "curand": (
        (r"createGenerator", "", (f"rng_type not in {_GENERATORS}",), _TYPE_ERROR),
        (r"generatePoisson", "", ("not lam > 0",), _OUT_OF_RANGE),
    ),
}

Check = Callable[..., int]


def _operands(condition: str) -> set[str]:
    """Return the argument names in a condition."""
    return {node.id for node in ast.walk(ast.parse(condition)) if isinstance(node, ast.Name)} - {"min"}


def conditions(library: str, signature: Signature) -> tuple[tuple[str, int], ...]:
    """Return the conditions of invalid calls of a function of a library (by its short name), each with its status."""
    found: list[tuple[str, int]] = []
    names = [argument.name for argument in signature.arguments]
    if names and names[0] in ("handle", "generator") and library in NO_HANDLE:
        found.append((f"{names[0]} == 0", NO_HANDLE[library]))
    for pattern, sizes, invalid, status in _RULES.get(library, ()):
        if not re.fullmatch(pattern, signature.name):
            continue
        value = INVALID_VALUE[library] if status is None else status
        found.extend((f"{name} < 0", value) for name in sizes.split() if name in names)
        # A function that tells a workspace's size takes fewer arguments than the one that works.
        found.extend((condition, value) for condition in invalid if _operands(condition) <= set(names))
    return tuple(found)


def check(library: str, signature: Signature) -> Check | None:
    """Return a function of a call's arguments that gives the status if it is invalid, else 0; None if all is valid."""
    found = conditions(library, signature)
    if not found:
        return None
    arguments = ", ".join(argument.name for argument in signature.arguments)
    lines = "".join(f"    if {condition}: return {status}\n" for condition, status in found)
    scope: dict[str, Check] = {}
    exec(
        compile(f"def check({arguments}):\n{lines}    return 0\n", f"<migproxy {library}.{signature.name}>", "exec"),
        scope,
    )
    return scope["check"]
