"""CuPy's libraries as tables of the plugin interface: the recorded signatures with the roles of their arguments.

Both halves work from `signatures` and `roles` themselves; this is the same knowledge in the words that every plugin's
table has, for the conformance kit and the generated pages.
"""

from __future__ import annotations

from migproxy_plugins.cupy import roles, signatures, tables
from migproxy_plugins.cupy.roles import Kind as Role
from migproxy_plugins.cupy.standin import NOT_SUPPORTED

from migproxy.abi import tables as words
from migproxy.abi.tables import Argument, Kind, Operation, Table

#: Modules whose functions all go by value, by the roles of their arguments.
BY_VALUE = ("cublas", "cusolver", "cusparse", "curand")
#: Modules over libraries that are not carried at all.
UNAVAILABLE = ("nccl",)
#: Functions of the stand-ins written by hand that are refused.
REFUSED = {
    **{
        ("cutensor", name): "a session has one device"
        for name in (
            *("_contractMg", "_copyMg", "createMg", "createMgContractionDescriptor", "createMgContractionFind"),
            *("createMgContractionPlan", "createMgCopyDescriptor", "createMgCopyPlan", "createMgTensorDescriptor"),
            *("destroyMg", "destroyMgContractionDescriptor", "destroyMgContractionFind", "destroyMgContractionPlan"),
            *("destroyMgCopyDescriptor", "destroyMgCopyPlan", "destroyMgTensorDescriptor"),
            *("getMgContractionWorkspace", "getMgCopyWorkspace"),
        )
    },
    ("cufft", "multi_gpu_execC2C"): "a session has one device",
    ("cufft", "multi_gpu_execZ2Z"): "a session has one device",
    ("cufft", "setCallback"): "CuPy's cuFFT is linked dynamically: legacy callbacks want a cuFFT of the function's own",
}
#: What the function's side of a stand-in does itself.
LOCAL = frozenset({"check_status", "check_result", "setPointerMode", "getPointerMode"})
OBJECT = "object"
#: What the executor half serves by functions of its own: arguments on the wire, and whether it needs the lease. The
#: conformance kit holds it against those functions (`checking.missing`).
_EXECUTED = ("plan", "source", "target")
_DIRECTED = (*_EXECUTED, "direction")
_PLAN_ND = ("shape", "inembed", "istride", "idist", "onembed", "ostride", "odist", "fft_type", "batch")
_XT_PLAN_ND = ("shape", "inembed", "istride", "idist", "idtype", "onembed", "ostride", "odist", "odtype", "batch")


def _operation_arguments(operands: str, *others: str) -> tuple[str, ...]:
    """Return the arguments of a cuTENSOR operation on tensors of these letters; results have no operator."""
    made = ["handle"]
    for letter in operands:
        made += [f"desc{letter}", f"mode{letter}", *([f"op{letter}"] if letter != operands[-1] else [])]
    return (*made, *others)


SERVED_BY_HAND: dict[str, dict[str, tuple[tuple[str, ...], bool]]] = {
    "cufft": {
        "create": (("plan",), False),
        "setAutoAllocation": (("plan", "allocate"), False),
        "setJITCallback": (("plan", "name", "image", "kind", "data"), False),
        "Plan1d": (("plan", "nx", "fft_type", "batch"), False),
        "PlanNd": (("plan", *_PLAN_ND, "order", "last_axis", "last_size"), False),
        "XtPlanNd": (("plan", *_XT_PLAN_ND, "edtype", "order", "last_axis", "last_size"), False),
        "destroyPlan": (("plan",), False),
        "fft": (_DIRECTED, True),
        "execC2C": (_DIRECTED, True),
        "execZ2Z": (_DIRECTED, True),
        "execC2R": (_EXECUTED, True),
        "execZ2D": (_EXECUTED, True),
        "execR2C": (_EXECUTED, True),
        "execD2Z": (_EXECUTED, True),
        "XtExec": (_DIRECTED, True),
    },
    "cutensor": {
        "create": (("made",), False),
        "createTensorDescriptor": (("made", "handle", "extents", "strides", "type", "alignment"), False),
        "createContraction": (("made", *_operation_arguments("ABCD", "descCompute")), False),
        "createElementwiseBinary": (("made", *_operation_arguments("ACD", "opAC", "descCompute")), False),
        "createElementwiseTrinary": (("made", *_operation_arguments("ABCD", "opAB", "opABC", "descCompute")), False),
        "createPermutation": (("made", *_operation_arguments("AB", "descCompute")), False),
        "createReduction": (("made", *_operation_arguments("ACD", "opReduce", "descCompute")), False),
        "createPlanPreference": (("made", "handle", "algorithm", "jit"), False),
        "createPlan": (("made", "handle", "operation", "preference", "limit"), False),
        "estimateWorkspaceSize": (("handle", "operation", "preference", "wanted"), False),
        "planGetAttribute": (("handle", "plan", "attribute", "size"), False),
        "get_version": ((), False),
        "get_cudart_version": ((), False),
        "destroy": (("handle",), False),
        "destroyOperationDescriptor": (("operation",), False),
        "destroyPlan": (("plan",), False),
        "destroyPlanPreference": (("preference",), False),
        "destroyTensorDescriptor": (("tensor",), False),
        "contract": (("handle", "plan", "alpha", "A", "B", "beta", "C", "D", "workspace", "size"), True),
        "elementwiseBinaryExecute": (("handle", "plan", "alpha", "A", "gamma", "C", "D"), True),
        "elementwiseTrinaryExecute": (("handle", "plan", "alpha", "A", "beta", "B", "gamma", "C", "D"), True),
        "permute": (("handle", "plan", "alpha", "A", "B"), True),
        "reduce": (("handle", "plan", "alpha", "A", "beta", "C", "D", "workspace", "size"), True),
    },
    "cub": {
        "device_reduce": (("x", "op", "reduced", "kept", "out", "keepdims"), True),
        "device_segmented_reduce": (("x", "op", "reduced", "kept", "out", "keepdims", "size"), True),
        "device_scan": (("x", "op"), True),
        "device_histogram": (("x", "y", "bins"), True),
    },
    "thrust": {
        "sort": (("dtype", "data", "keys", "shape"), True),
        "argsort": (("dtype", "index", "data", "keys", "shape"), True),
        "lexsort": (("dtype", "index", "keys", "k", "n"), True),
    },
    "generator_api": {
        "init_curand": (("kind", "state", "seed", "lanes"), True),
        "draw": (("distribution", "kind", "state", "lanes", "out", "parameters"), True),
    },
}


def operations(version: str | None = None) -> tuple[Table, ...]:
    """Return the tables of this process's CuPy, or of another recorded version."""
    return tuple(_table(module, version) for module in tables.SHORT_NAMES if tables.recorded(module, version))


def _table(module: str, version: str | None) -> Table:
    short = tables.SHORT_NAMES[module]
    facts = tables.table(module, version)
    error = next((name for name, entry in facts["classes"].items() if "messages" in entry), "")
    entries = {}
    for name, doc in facts["functions"].items():
        if short in UNAVAILABLE:
            entries[name] = Operation(name, refused="the library is not carried")
        elif name in facts["values"] or (short not in BY_VALUE and name != "getVersion"):
            entries[name] = Operation(name, local=True, refused=REFUSED.get((short, name), ""))
        else:
            entries[name] = _operation(short, signatures.parse(doc))
    if short not in (*BY_VALUE, *UNAVAILABLE):
        entries |= _by_hand(module)
    return Table(
        module,
        module,
        entries,
        foreign=frozenset({OBJECT}),
        bad_handle=1,
        not_supported=NOT_SUPPORTED.get(short, 801),
        error=error,
    )


def _operation(short: str, signature: signatures.Signature) -> Operation:
    name = signature.name
    if (short, name) in REFUSED:
        return Operation(name, refused=REFUSED[short, name])
    if any(role.kind is Role.UNDECIDED for role in roles.roles(short, signature)):
        return Operation(name, refused="an argument of a newer release is not decided yet")
    found = [
        _argument(short, signature, argument, role, last=position == len(signature.arguments) - 1)
        for position, (argument, role) in enumerate(
            zip(signature.arguments, roles.roles(short, signature), strict=True)
        )
    ]
    stream_role = {"setStream": "set", "spSetStream": "set", "getStream": "get", "spGetStream": "get"}.get(name, "")
    makes = roles.made_kind(short, name) if roles.creates(signature) else ""
    result = "" if makes or signature.result in ("", "void") or stream_role else _result(signature.result)
    return Operation(
        name,
        tuple(found),
        result=result,
        makes=makes,
        lease=not roles.without_lease(short, name),
        stream_role=stream_role,
        local=name in LOCAL,
    )


def _result(declared: str) -> str:
    if declared in signatures.INTEGERS:
        return "integer"
    return {"str": "text", "bytes": "bytes", "float": "number", "double": "number"}.get(declared, "list")


def _argument(
    short: str, signature: signatures.Signature, argument: signatures.Argument, role: roles.Role, *, last: bool
) -> Argument:
    name = argument.name
    if role.kind is Role.OBJECT:
        return Argument(name, Kind.HANDLE, of=OBJECT, ends=last and roles.destroys(signature), optional=True)
    if role.kind is Role.POINTER:
        return words.device(name, optional=True)
    if role.kind is Role.COMPLEX:
        return words.complex_number(name)
    if role.size is not None:
        kind = {Role.IN: Kind.READ, Role.OUT: Kind.WRITE, Role.SCRATCH: Kind.SCRATCH}[role.kind]
        size, function = role.size, signature.name
        return Argument(name, kind, size=lambda values: size(function, values), optional=True)
    if argument.ctype in ("float", "double"):
        return words.number(name, "float32" if argument.ctype == "float" else "float64")
    if argument.ctype in ("str", "bytes"):
        return words.text(name)
    bits, signed = signatures.INTEGERS.get(argument.ctype, (32, True))
    return words.integer(name, f"{'' if signed else 'u'}int{bits}")


def _by_hand(module: str) -> dict[str, Operation]:
    """Return what the executor half serves by functions of its own, under their names on the wire."""
    return {
        name: Operation(name, tuple(words.value(each) for each in arguments), lease=lease, by_hand=True)
        for name, (arguments, lease) in SERVED_BY_HAND.get(tables.SHORT_NAMES[module], {}).items()
    }
