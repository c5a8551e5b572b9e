"""The operations of nvmath's bindings, from the signatures that its compiled modules tell and rules about their names.

Both halves read the same modules of the same release, and both check by the result. A function whose arguments no rule
understands is refused by name.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from migproxy.interpose.plugin import (
    Argument,
    Operation,
    Table,
    complex_number,
    device,
    ended,
    handle,
    integer,
    number,
    read,
    scratch,
    stream,
    updated,
    value,
    written,
)

BINDINGS = "nvmath.bindings."
#: Library → its error class, its status for a bad handle and for what is not supported.
_ERRORS = {
    "cublas": ("cuBLASError", 1, 15),
    "cublasLt": ("cuBLASLtError", 1, 15),
    "cufft": ("cuFFTError", 1, 16),
    "cusolver": ("cuSOLVERError", 1, 9),
    "cusolverDn": ("cuSOLVERError", 1, 9),
}
_INTEGERS = {
    "int": "int32", "unsigned int": "uint32", "long long": "int64", "int64_t": "int64", "uint64_t": "uint64",
    "size_t": "uint64", "signed char": "int8",
}  # fmt: skip
#: cudaDataType → bytes.
DATA_TYPES = {0: 4, 1: 8, 2: 2, 3: 1, 4: 8, 5: 16, 6: 4, 7: 2, 8: 1, 9: 2, 10: 4, 11: 8, 12: 4, 13: 8, 14: 2, 15: 4}
_FIRST_COMPUTE_TYPE = 64
_COMPLEX_TYPES = frozenset({4, 5, 6, 7, 9, 11, 13, 15})
ALGORITHM, HEURISTIC = 64, 96  # sizes of cublasLtMatmulAlgo_t and cublasLtMatmulHeuristicResult_t

_LETTERS = {"s": 4, "d": 8, "c": 8, "z": 16, "h": 2}
_HOST_ONLY = re.compile(r"(set|get)_(vector|matrix)(_async)?(_64)?")
_WHY_HOST = "it takes host memory in a way that is not carried; copy with CUDA"
#: Functions that are refused, by library: pattern and reason.
_REFUSED: dict[str, tuple[tuple[str, str], ...]] = {
    "cublas": (
        (_HOST_ONLY.pattern, _WHY_HOST),
        (r".*rotm?g?(_ex)?(_64)?", "its scalars are read and written on the host or the device"),
        (r".*grouped_batched.*", "its arrays of sizes lie on the host"),
        (r"(logger|get_logger|set_logger).*", "the log is the executor's"),
    ),
    "cublasLt": (
        (r"logger.*|disable_cpu.*|heuristics_cache.*", "the library's state is the executor's"),
        (r"grouped.*|matrix_transform$", "its arrays of sizes or scalars lie on the host"),
    ),
    "cufft": (
        (r"xt_(set_gpus|malloc|memcpy|free|exec_descriptor.*|query_plan|set_work_area_policy|set_subformat.*)",
         "a session has one device"),
        (r"xt_(set|clear)_(jit_)?callback.*", "callbacks are code of the function, and cuFFT runs in the executor"),
        (r"get_size_many$", "its arrays lie on the host"),
    ),
    "cusolverDn": (
        (r"irs_.*|.*_irs_.*|.*gesv$|.*gels$|.*gesv_.*|.*gels_.*", "iterative refinement is not carried"),
        (r"logger.*", "the log is the executor's"),
    ),
    "cusolver": (),
}  # fmt: skip
_REFUSED_ARGUMENTS = frozenset({"vl", "vu", "meig", "h_meig", "h_r_nrm_f", "caller_info"})
#: What the function's half does, or what asks nothing of a device.
_LOCAL = re.compile(r"check_status|.*_attribute_dtype|[gs]et_pointer_mode")
_SEQUENCES = ("n", "inembed", "onembed")


def signatures(name: str) -> dict[str, tuple[tuple[tuple[str, str], ...], str]]:
    """Return the functions of a binding: name → arguments as (C type, name), and the result's type."""
    # In a function, importing it puts the carried functions in, which asks for this first: what was read then holds.
    return _read(importlib.import_module(BINDINGS + name))


@cache
def _read(module: Any) -> dict[str, tuple[tuple[tuple[str, str], ...], str]]:
    found = {}
    for function, item in vars(module).items():
        first = (getattr(item, "__doc__", None) or "").partition("\n")[0]
        match = re.match(rf"{function}\((.*?)\)(?: -> (.+))?$", first)
        foreign = getattr(item, "__module__", module.__name__) not in (module.__name__, None)
        if foreign or function[0] == "_" or isinstance(item, type) or not callable(item) or match is None:
            continue
        arguments = []
        for part in filter(None, (each.strip() for each in match[1].split(","))):
            ctype, _, argument = part.rpartition(" ")
            arguments.append((ctype, argument))
        found[function] = tuple(arguments), (match[2] or "").strip()
    return found


def tables() -> tuple[Table, ...]:
    """Return the tables of the installed release."""
    return tuple(library_table(name) for name in _ERRORS)


@cache
def library_table(name: str) -> Table:
    """Return one binding's table."""
    error, bad_handle, not_supported = _ERRORS[name]
    entries = {function: _operation(name, function) for function in signatures(name)}
    made = {entry.makes for entry in entries.values() if entry.makes}
    for function, entry in entries.items():
        kinds = {each.of for each in entry.arguments if each.of}
        if not kinds <= made and not entry.refused:
            entries[function] = Operation(
                function, refused=f"nothing that is carried makes its {', '.join(kinds - made)}"
            )
    return Table(
        BINDINGS + name, BINDINGS + name, entries, bad_handle=bad_handle, not_supported=not_supported, error=error
    )


def _operation(library: str, name: str) -> Operation:
    arguments, result = signatures(library)[name]
    for pattern, why in _REFUSED[library]:
        if re.fullmatch(pattern, name):
            return Operation(name, refused=why)
    if unknown := _REFUSED_ARGUMENTS & {argument for _, argument in arguments}:
        return Operation(name, refused=f"{', '.join(sorted(unknown))}: host or device memory, not carried")
    if _LOCAL.fullmatch(name):
        return Operation(name, local=True)
    role = re.fullmatch(r"(set|get)_stream", name)
    makes = _kind_made(library, name)
    try:
        drafted = tuple(_argument(library, name, ctype, argument) for ctype, argument in arguments)
    except LookupError as error:
        return Operation(name, refused=str(error.args[0]))
    by_hand = any(each.kind.value == "value" for each in drafted) or (library, name) == ("cublasLt", "matmul")
    return Operation(
        name,
        drafted,
        makes=makes,
        result="" if makes or role else _result(result),
        lease=bool(re.search(r"create|exec|[sdczhx]?[a-z]+", name)) and not _is_query(name),
        stream_role=role[1] if role else "",
        by_hand=by_hand,
    )


def _is_query(name: str) -> bool:
    return name.endswith("buffer_size") or bool(re.match(r"get_|.*_get_attribute|.*_destroy$|destroy|estimate", name))


def _result(ctype: str) -> str:
    if ctype in ("", "void"):
        return ""
    return {"tuple": "list", "str": "text", "double": "number", "float": "number"}.get(ctype, "integer")


def _kind_made(library: str, name: str) -> str:
    if name == "create":
        return {"cufft": "plan"}.get(library, "handle")
    if library == "cublasLt" and name.endswith("_create"):
        return name.removesuffix("_create")
    if library == "cusolverDn" and name.startswith("create_"):
        return name.removeprefix("create_")
    return ""


#: cublasLt's arguments that are objects.
_LT_OBJECTS = {
    "light_handle": "handle", "compute_desc": "matmul_desc", "operation_desc": "matmul_desc",
    "matmul_desc": "matmul_desc", "adesc": "matrix_layout", "bdesc": "matrix_layout", "cdesc": "matrix_layout",
    "ddesc": "matrix_layout", "mat_layout": "matrix_layout", "transform_desc": "matrix_transform_desc",
    "preference": "matmul_preference", "pref": "matmul_preference", "emulation_desc": "emulation_desc",
}  # fmt: skip


def _object(library: str, name: str, argument: str) -> str:
    """Return the kind of an argument that is an object; empty if it is none."""
    if library == "cublasLt":
        return _LT_OBJECTS.get(argument, "")
    if library == "cufft":
        return "plan" if argument in ("plan", "handle") else ""
    if argument == "handle":
        return "handle"
    for kind in ("syevj_info", "gesvdj_info"):
        stem = kind.removesuffix("_info")
        of_solver = argument == "params" and re.search(
            r"(syevj|sygvj|heevj|hegvj){1}" if stem == "syevj" else stem, name
        )
        if of_solver or (argument == "info" and (re.match(rf"x{stem}_", name) or name == f"destroy_{kind}")):
            return kind
    return "params" if argument == "params" else ""


def _argument(library: str, name: str, ctype: str, argument: str) -> Argument:
    kind = _object(library, name, argument)
    if kind:
        return ended(argument, kind) if "destroy" in name else handle(argument, kind, optional=kind == "params")
    if argument in ("stream", "stream_id"):
        return stream(argument)
    if library == "cufft" and argument in _SEQUENCES and not ctype:
        return value(argument)
    host = _host(library, name, argument)
    if host is not None:
        return host
    if ctype in _INTEGERS:
        return integer(argument, _INTEGERS[ctype])
    if ctype in ("float", "double"):
        return number(argument, "float32" if ctype == "float" else "float64")
    if "complex" in ctype:
        return complex_number(argument)
    if ctype == "intptr_t":
        return device(argument, optional=True)
    if ctype.endswith("_t"):
        return integer(argument)  # an enumeration
    raise LookupError(f"{argument}: no rule says what it is")


def _host(library: str, name: str, argument: str) -> Argument | None:
    """Return an argument that is host memory; None for another one."""
    if library == "cublasLt":
        return _lt_host(name, argument)
    if library == "cusolverDn" and argument == "buffer_on_host":
        return scratch(argument, "workspace_in_bytes_on_host", optional=True)
    if library == "cublas" and argument in ("alpha", "beta"):
        return read(argument, _scalar(name, argument), optional=True)
    if library == "cublas" and argument == "result":
        return written(argument, _scalar(name, argument))
    if library == "cublas" and argument == "info" and re.fullmatch(r"[sdcz](getrs|gels)_batched", name):
        return written(argument, 4)
    return None


def _lt_host(name: str, argument: str) -> Argument | None:
    setting = name.endswith("set_attribute")
    if argument == "buf":
        return (read if setting else written)(argument, "size_in_bytes", optional=True)
    if argument == "size_written":
        return written(argument, 8)
    if argument == "algo":
        if name == "matmul_algo_init":
            return written(argument, ALGORITHM)
        make = updated if name == "matmul_algo_config_set_attribute" else read
        return make(argument, ALGORITHM, optional=name == "matmul")
    if argument == "heuristic_results_array":
        return written(argument, f"{HEURISTIC} * requested_algo_count")
    if argument == "return_algo_count":
        return written(argument, 4)
    if argument == "result":
        return written(argument, HEURISTIC)
    if name == "matmul" and argument in ("alpha", "beta"):
        return value(argument)  # as long as the descriptor's scale type, which the function's half knows
    return None


#: Scalars that are real although the matrix is complex: of Hermitian rank-k updates.
_REAL_BETA = ("her2k", "herkx")
_REAL_ALPHA = ("her", "hpr", "herk")


def _scalar(name: str, argument: str) -> int | Callable[[Any], int]:
    """Return the bytes of a scalar of cuBLAS."""
    wide, base = name.endswith("_64"), name.removesuffix("_64")
    names = {each for _, each in signatures("cublas")[name][0]}
    if base[0] == "i":
        return 8 if wide else 4  # an index
    if base.startswith(("gemm_ex", "gemm_strided_batched_ex", "gemm_batched_ex")):
        return _gemm_ex
    kind = {"alpha": "alpha_type", "result": "result_type"}.get(argument, "")
    if kind in names:
        return lambda values: DATA_TYPES[values[kind]]
    if base in ("scnrm2", "scasum", "csscal"):
        return 4
    if base in ("dznrm2", "dzasum", "zdscal"):
        return 8
    stem = base[1:].removesuffix("_ex").removesuffix("3m").rstrip("_")
    if base[0] in "cz" and (stem in _REAL_ALPHA or (argument == "beta" and stem in _REAL_BETA)):
        return 4 if base[0] == "c" else 8
    if base[0] in _LETTERS:
        return _LETTERS[base[0]]
    raise LookupError(f"{argument}: no rule says how long it is")


def _gemm_ex(values: Any) -> int:
    """As cuBLAS's manual says: by the compute type, and complex if C is."""
    compute = values["compute_type"]
    double = compute in (70, 71, 1, 5)
    if values["ctype"] in _COMPLEX_TYPES:
        return 16 if double else 8
    if compute < _FIRST_COMPUTE_TYPE:  # older releases gave a data type here; newer ones refuse it unread
        return DATA_TYPES.get(compute, 4)
    return 8 if double else 2 if compute in (64, 65) else 4
