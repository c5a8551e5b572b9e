"""What each argument of a library function is: a value, one of the executor's objects, or host memory.

Device pointers are values: they mean the same in the executor. Host pointers are known by the argument's name; their
length follows from the function's type letter or from other arguments. For cuBLAS and cuSPARSE a pointer of which the
handle's pointer mode says that it is a device pointer goes as a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache

from migproxy_plugins.cupy.device_arguments import DEVICE, NUMBERS
from migproxy_plugins.cupy.signatures import Signature

#: The status that means "not supported" in each library's own numbering.
NOT_SUPPORTED = {"cublas": 15, "cusolver": 9, "cusparse": 10, "curand": 103, "cutensor": 15, "cufft": 16, "nccl": 1}
Values = Mapping[str, int]
Size = Callable[[str, Values], int]


class Kind(Enum):
    """How an argument travels."""

    VALUE = "value"
    POINTER = "pointer"  # device memory, or an address that the library only keeps
    OBJECT = "object"  # a number that the function chose when it created the object
    IN = "in"  # host memory that the call reads
    OUT = "out"  # host memory that the call writes
    SCRATCH = "scratch"  # host memory that means nothing after the call
    COMPLEX = "complex"
    UNDECIDED = "undecided"  # as wide as an address, and nobody has said what it is: the function is refused


@dataclass(frozen=True, slots=True)
class Role:
    """One argument's role.

    Attributes
    ----------
    kind : Kind
    size : callable or None
        Bytes of the host memory, from the function's name and the integer arguments.
    moded : bool
        The handle's pointer mode decides whether it is host memory at all.
    """

    kind: Kind
    size: Size | None = None
    moded: bool = False


VALUE = Role(Kind.VALUE)
POINTER = Role(Kind.POINTER)
UNDECIDED = Role(Kind.UNDECIDED)
OBJECT = Role(Kind.OBJECT)
COMPLEX = Role(Kind.COMPLEX)

_LETTERS = {"s": 4, "d": 8, "c": 8, "z": 16}
# cudaDataType → bytes of one scalar of it.
_DATA_TYPES = {0: 4, 1: 8, 2: 2, 3: 1, 4: 8, 5: 16, 6: 4, 7: 2, 8: 1, 9: 2, 10: 4, 11: 8, 12: 4, 13: 8, 14: 2, 15: 4}
_COMPLEX_TYPES = frozenset({4, 5, 6, 7, 9, 11, 13, 15})


def _letter(name: str, values: Values) -> int:
    """Bytes of a scalar by the function's type letter; real scalars of complex vectors have their own prefixes."""
    if name in ("csscal", "scnrm2", "scasum"):
        return 4
    if name in ("zdscal", "dznrm2", "dzasum"):
        return 8
    return _LETTERS[name[0]]


def _blas_result(name: str, values: Values) -> int:
    return 4 if name[0] == "i" else _letter(name, values)


def _gemm_ex(name: str, values: Values) -> int:
    """Bytes of alpha and beta of ``gemmEx``: the scale type, from the compute type and whether the result is
    complex.
    """
    compute = values["computeType"]
    if compute in (64, 65, 2):  # half
        return 2
    double = compute in (70, 71, 1, 5)
    if compute in (72, 73, 10):
        return 4
    return (8 if double else 4) * (2 if values["Ctype"] in _COMPLEX_TYPES else 1)


def _compute_type(name: str, values: Values) -> int:
    return _DATA_TYPES[values["computeType"]]


def _bytes(size: int) -> Size:
    return lambda name, values: size


def _times(size: int, argument: str) -> Size:
    return lambda name, values: size * values[argument]


# library → (pattern of function names, pattern of argument names, role); the first match counts.
_RULES: dict[str, tuple[tuple[str, str, Role], ...]] = {
    "cublas": (
        (r".*", r"handle", OBJECT),
        (r"gemm(StridedBatched)?Ex", r"alpha|beta", Role(Kind.IN, _gemm_ex, moded=True)),
        (r"sgemmEx", r"alpha|beta", Role(Kind.IN, _bytes(4), moded=True)),
        (r".*", r"alpha|beta", Role(Kind.IN, _letter, moded=True)),
        (r".*", r"result", Role(Kind.OUT, _blas_result, moded=True)),
        (r".getrsBatched", r"info", Role(Kind.OUT, _bytes(4))),
    ),
    "cusolver": (
        (r".*", r"handle|params|descrA", OBJECT),
        (r"destroy.*Info|x(syevj|gesvdj)(Get|Set).*", r"info", OBJECT),
        (r".gesvdaStridedBatched", r"h_R_nrmF", Role(Kind.OUT, _times(8, "batchSize"))),
        (r".*", r"singularity", Role(Kind.OUT, _bytes(4))),
        (r"[cz]csreigvsi", r"mu0", Role(Kind.IN, _letter)),
        (r".*", r"bufferOnHost", Role(Kind.SCRATCH, lambda name, values: values["workspaceInBytesOnHost"])),
    ),
    "cusparse": (
        (r".*", r"handle|descr[ABCD]?|desc|mat[ABC]|vec[XY]|spMatDescr|sp(gemm|gemM|sm|geam)Descr", OBJECT),
        (r".*", r"info", OBJECT),
        (r"sp(VV|MV|MM|SM|GEMM|GEAM).*", r"alpha|beta", Role(Kind.IN, _compute_type, moded=True)),
        (r"spVV.*", r"result", Role(Kind.OUT, _compute_type, moded=True)),
        (r".*", r"alpha|beta", Role(Kind.IN, _letter, moded=True)),
        (r".*numericBoost", r"tol", Role(Kind.IN, _bytes(8), moded=True)),
        (r".*numericBoost", r"boost_val", Role(Kind.IN, _letter, moded=True)),
        (r".*", r"nnzTotalDevHostPtr|position", Role(Kind.OUT, _bytes(4), moded=True)),
        (r"spMatGetSize", r"rows|cols|nnz", Role(Kind.OUT, _bytes(8))),
    ),
    "curand": ((r".*", r"generator", OBJECT),),
    "cufft": ((r".*", r"plan", OBJECT),),
}


@cache
def _compiled(library: str) -> tuple[tuple[re.Pattern[str], re.Pattern[str], Role], ...]:
    return tuple((re.compile(f), re.compile(a), role) for f, a, role in _RULES.get(library, ()))


def roles(library: str, signature: Signature) -> tuple[Role, ...]:
    """Return the role of each argument of a function of a library (by its short name)."""
    found = []
    for argument in signature.arguments:
        role = COMPLEX if "complex" in argument.ctype else VALUE
        if argument.ctype in ("size_t", "intptr_t") and argument.name not in NUMBERS:
            role = POINTER if argument.name in DEVICE.get(library, ()) else UNDECIDED
        for functions, arguments, candidate in _compiled(library):
            if arguments.fullmatch(argument.name) and functions.fullmatch(signature.name):
                role = candidate
                break
        found.append(role)
    return tuple(found)


def creates(signature: Signature) -> bool:
    """Whether the function makes an object, whose number the function's side chooses."""
    return signature.result in ("intptr_t", "size_t") and bool(
        re.match(r"(sp)?[cC]reate|sp[A-Z]+_createDescr", signature.name)
    )


def made_kind(library: str, name: str) -> str:
    """Return the kind of object that a function of a library (by its short name) makes."""
    if name.endswith("_createDescr"):
        return f"{library} {name.removesuffix('_createDescr')} descriptor"
    kind = re.sub(r"^(sp)?[cC]reate", "", name)
    kind = {"": "handle", "Coo": "SpMat", "Csc": "SpMat", "Csr": "SpMat"}.get(kind, kind)
    return f"{library} {'sparse ' if name.startswith('sp') else ''}{kind}"


def destroys(signature: Signature) -> bool:
    """Whether the function ends the object that is its last argument."""
    return bool(re.match(r"(sp)?[dD]estroy|sp[A-Z]+_destroyDescr", signature.name))


# createIdentityPermutation makes no object: it fills an array.
_NOT_ON_STREAM = re.compile(
    r"(sp)?[cC]reate(?!IdentityPermutation).*|(sp)?[dD]estroy.*|[gs]et(?!Stream).*|_?getVersion.*|check_status"
)


def works_on_stream(library: str, signature: Signature) -> bool:
    """Whether the real function first gives its handle the current stream."""
    first = signature.arguments[0].name if signature.arguments else ""
    return (
        library in ("cublas", "cusolver", "cusparse", "curand")
        and first in ("handle", "generator")
        and not _NOT_ON_STREAM.fullmatch(signature.name)
    )


#: Functions whose answer cannot change within a session, for the same arguments.
_CONSTANT = {
    "cublas": re.compile(r"getVersion"),
    "cusolver": re.compile(r"getProperty|_getVersion(Number)?"),
    "cusparse": re.compile(r"getVersion"),
    "curand": re.compile(r"getVersion"),
}
#: Workspace sizes: they follow from sizes, types, modes and algorithm, never from what the pointers point to. Those of
#: cuSPARSE that look at a matrix's structure, or that leave something in a descriptor, are not here.
_SIZES = {
    "cusolver": re.compile(r".*_bufferSize"),
    "cusparse": re.compile(
        r"(spVV|spMV|spMM|sparseToDense|denseToSparse|csr2cscEx2)_bufferSize"
        r"|(.csrgeam2|.gtsv2|.gtsv2_nopivot|.gtsv2StridedBatch|.gtsvInterleavedBatch|.gpsvInterleavedBatch"
        r"|xcoosort|xcsrsort|xcscsort)_bufferSizeExt"
    ),
}
#: What changes an object's facts: the object is the first argument, and the others are the facts, unless they are
#: addresses.
_CHANGES = {
    "cusparse": re.compile(r"spMatSetAttribute|(sp|dn)MatSetStridedBatch|setMat(DiagType|FillMode|IndexBase|Type)")
}


def changes(library: str, signature: Signature) -> bool:
    """Whether a function changes facts of the object that is its first argument."""
    pattern = _CHANGES.get(library)
    return pattern is not None and pattern.fullmatch(signature.name) is not None


def plain_facts(library: str, signature: Signature, arguments: tuple[object, ...]) -> tuple[object, ...]:
    """Return a call as facts of the object that it makes or changes: name and arguments, addresses as null or not."""
    found = roles(library, signature)
    return (
        signature.name,
        *(
            bool(value) if role.kind in (Kind.POINTER, Kind.OBJECT) else value
            for role, value in zip(found, arguments, strict=True)
        ),
    )


def answer_key(
    library: str,
    signature: Signature,
    arguments: tuple[object, ...],
    described: Callable[[object], object] = lambda number: None,
) -> tuple[object, ...] | None:
    """Return what a query's answer depends on, or None if it must be asked each time.

    Addresses are in a key only as null or not null, objects by what `described` knows of them.
    """
    name = signature.name
    if (pattern := _CONSTANT.get(library)) and pattern.fullmatch(name):
        return (
            name,
            *(value for value, part in zip(arguments, signature.arguments, strict=True) if part.name != "handle"),
        )
    if (pattern := _SIZES.get(library)) and pattern.fullmatch(name):
        key: list[object] = [name]
        for role, part, value in zip(roles(library, signature), signature.arguments, arguments, strict=True):
            if role.kind is Kind.OBJECT:
                key.append(described(value))
                continue
            key.append(bool(value) if part.ctype in ("size_t", "intptr_t") else value)
        return tuple(key)
    return None


@cache
def without_lease(library: str, name: str) -> bool:
    """Whether a function certainly does not use the multiprocessors: queries that are kept, and ends of objects."""
    return may_keep(library, name) or re.fullmatch(r"(sp)?[dD]estroy.*|sp[A-Z]+_destroyDescr", name) is not None


def may_keep(library: str, name: str) -> bool:
    """Whether `answer_key` has keys for a function at all."""
    return any(
        pattern is not None and pattern.fullmatch(name) is not None
        for pattern in (_CONSTANT.get(library), _SIZES.get(library))
    )
