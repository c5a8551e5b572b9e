"""C prototypes as the names of capsules spell them, and where the System V ABI puts their parameters.

A capsule of ``module.__pyx_capi__`` is named by its C type, such as ``"CUresult (CUdeviceptr *, size_t)"`` or
``"PyObject *(intptr_t, int __pyx_skip_dispatch)"``. `parse_prototype` reads it. By-value types are looked up in
tables: guessing a width would corrupt arguments, so an unknown one is refused with `UnsupportedPrototype`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

from migproxy.errors import MigproxyError


class UnsupportedPrototype(MigproxyError):
    """A prototype that no trampoline can be made for; the message names the type and why."""


class Kind(IntEnum):
    """How one value is passed and turned into a Python object."""

    VOID = 0
    I8 = 1
    I16 = 2
    I32 = 3
    I64 = 4
    U8 = 5
    U16 = 6
    U32 = 7
    U64 = 8
    F32 = 9
    F64 = 10
    OBJECT = 11
    BYTES = 12  # a struct by value, as its bytes
    OPTIONAL = 13  # Cython's struct of optional arguments


_SIZES = {Kind.I8: 1, Kind.U8: 1, Kind.I16: 2, Kind.U16: 2, Kind.I32: 4, Kind.U32: 4, Kind.F32: 4}

_FUNDAMENTAL: dict[str, Kind] = {
    "void": Kind.VOID,
    "char": Kind.I8,
    "signed char": Kind.I8,
    "unsigned char": Kind.U8,
    "short": Kind.I16,
    "unsigned short": Kind.U16,
    "int": Kind.I32,
    "unsigned": Kind.U32,
    "unsigned int": Kind.U32,
    "long": Kind.I64,
    "unsigned long": Kind.U64,
    "long long": Kind.I64,
    "unsigned long long": Kind.U64,
    "PY_LONG_LONG": Kind.I64,
    "unsigned PY_LONG_LONG": Kind.U64,
    "float": Kind.F32,
    "double": Kind.F64,
    "size_t": Kind.U64,
    "Py_ssize_t": Kind.I64,
    "intptr_t": Kind.I64,
    "uintptr_t": Kind.U64,
    "uintmax_t": Kind.U64,
    "int32_t": Kind.I32,
    "int64_t": Kind.I64,
    "uint32_t": Kind.U32,
    "uint64_t": Kind.U64,
    "cuuint32_t": Kind.U32,
    "cuuint64_t": Kind.U64,
}

#: 64-bit numbers.
_NUMBERS64 = """
CUdeviceptr CUtexObject CUsurfObject CUmemGenericAllocationHandle CUgraphConditionalHandle CUlogicalEndpointId
cudaTextureObject_t cudaSurfaceObject_t cudaGraphConditionalHandle
"""
#: 32-bit numbers.
_NUMBERS32 = "EGLint GLenum GLuint VdpDevice VdpOutputSurface VdpVideoSurface nvmlVgpuInstance_t nvmlVgpuTypeId_t"
#: Typedefs of pointers, to opaque structs and to functions.
_POINTERS = """
CUarray CUmipmappedArray CUasyncCallbackHandle CUcontext CUcoredumpCallbackHandle CUdevResourceDesc CUevent
CUexternalMemory CUexternalSemaphore CUfunction CUgraph CUgraphExec CUgraphNode CUgraphDeviceNode CUgraphicsResource
CUgreenCtx CUkernel CUlibrary CUlinkState CUcheckpointOperationHandle CUlogsCallbackHandle CUmemoryPool CUmodule
CUstream CUsurfref CUtexref CUuserObject CUeglStreamConnection CUasyncCallback CUcoredumpStatusCallback CUhostFn
CUlogsCallback CUoccupancyB2DSize CUstreamCallback EGLImageKHR EGLStreamKHR EGLSyncKHR
cudaArray_t cudaArray_const_t cudaMipmappedArray_t cudaMipmappedArray_const_t cudaAsyncCallback
cudaAsyncCallbackHandle_t cudaDevResourceDesc_t cudaEvent_t cudaExecutionContext_t cudaExternalMemory_t
cudaExternalSemaphore_t cudaFunction_t cudaGraph_t cudaGraphExec_t cudaGraphNode_t cudaGraphicsResource_t cudaHostFn_t
cudaKernel_t cudaLibrary_t cudaLogsCallbackHandle cudaLogsCallback_t cudaMemPool_t cudaStreamCallback_t cudaStream_t
cudaUserObject_t nvrtcProgram nvJitLinkHandle nvmlDevice_t nvmlUnit_t nvmlEventSet_t nvmlGpuInstance_t
nvmlComputeInstance_t nvmlSystemEventSet_t
"""
_ENUMS = """
CUGLDeviceList CUaddress_mode CUarray_format CUcoredumpSettings CUdevResourceType CUdevice CUdevice_P2PAttribute
CUdevice_attribute CUexecAffinityType CUfilter_mode CUflushGPUDirectRDMAWritesScope CUflushGPUDirectRDMAWritesTarget
CUfunc_cache CUfunction_attribute CUgraphMem_attribute CUjitInputType CUkernelNodeAttrID CUstreamAttrID CUlimit
CUlogicalEndpointIpcHandleType CUmemAllocationGranularity_flags CUmemAllocationHandleType CUmemAllocationType
CUmemPool_attribute CUmemRangeHandleType CUmem_advise CUmem_range_attribute CUmulticastGranularity_flags CUoutput_mode
CUpointer_attribute CUresult CUsharedconfig CUstreamCaptureMode CUtensorMapDataType CUtensorMapFloatOOBfill
CUtensorMapIm2ColWideMode CUtensorMapInterleave CUtensorMapL2promotion CUtensorMapSwizzle CUtensorMapAllocClass
cudaChannelFormatKind cudaDevResourceType cudaDeviceAttr cudaDeviceP2PAttr cudaError_t cudaError
cudaFlushGPUDirectRDMAWritesScope cudaFlushGPUDirectRDMAWritesTarget cudaFuncAttribute cudaFuncCache cudaGLDeviceList
cudaGraphMemAttributeType cudaKernelNodeAttrID cudaLimit cudaMemAllocationHandleType cudaMemAllocationType
cudaMemPoolAttr cudaMemRangeAttribute cudaMemcpyKind cudaMemoryAdvise cudaSharedMemConfig cudaStreamAttrID
cudaStreamCaptureMode
nvJitLinkInputType nvJitLinkResult nvrtcResult nvmlAffinityScope_t nvmlClockId_t nvmlClockType_t nvmlComputeMode_t
nvmlDetachGpuState_t nvmlDeviceVgpuCapability_t nvmlDriverModel_t nvmlEccCounterType_t nvmlEnableState_t
nvmlEncoderType_t nvmlFanControlPolicy_t nvmlGpuOperationMode_t nvmlGpuP2PCapsIndex_t nvmlGpuTopologyLevel_t
nvmlGpuVirtualizationMode_t nvmlInforomObject_t nvmlLedColor_t nvmlMemoryErrorType_t nvmlMemoryLocation_t
nvmlNvLinkCapability_t nvmlNvLinkErrorCounter_t nvmlPageRetirementCause_t nvmlPcieLinkState_t nvmlPcieUtilCounter_t
nvmlPstates_t nvmlRestrictedAPI_t nvmlReturn_t nvmlSamplingType_t nvmlTemperatureThresholds_t nvmlVgpuCapability_t
nvmlVgpuDriverCapability_t
"""
#: Structs by value: their size. All are of integers and pointers and at most 8-aligned, so the ABI passes up to 16
#: bytes in integer registers and longer ones in memory.
_STRUCTS = {
    "CUipcMemHandle": 64,
    "CUipcEventHandle": 64,
    "CUmemLocation": 8,
    "CUeglFrame": 64,
    "cudaIpcMemHandle_t": 64,
    "cudaIpcEventHandle_t": 64,
    "cudaMemLocation": 8,
    "cudaExtent": 24,
    "cudaPos": 24,
    "cudaPitchedPtr": 32,
    "cudaEglFrame": 280,
}

_TYPES: dict[str, Kind] = {
    **_FUNDAMENTAL,
    **dict.fromkeys(_NUMBERS64.split(), Kind.U64),
    **dict.fromkeys(_NUMBERS32.split(), Kind.U32),
    **dict.fromkeys(_POINTERS.split(), Kind.U64),
    **dict.fromkeys(_ENUMS.split(), Kind.I32),
}
_CYTHON_PREFIX = re.compile(r"__pyx_t_(?:\d+[a-z]\w*?_)+?\d+(?:cydriver|cyruntime|driver|runtime)_")
_OPTIONAL = re.compile(r"struct __pyx_opt_args_\w+ \*")
_OBJECT = re.compile(r"(?:PyObject|struct __pyx_obj_\w+) \*")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter.

    Attributes
    ----------
    kind : Kind
    text : str
        As the prototype spells it.
    size : int
        Bytes, for `Kind.BYTES`.
    """

    kind: Kind
    text: str
    size: int = 8


@dataclass(frozen=True, slots=True)
class Prototype:
    """A parsed C prototype.

    Attributes
    ----------
    text : str
        As the capsule spells it.
    result : Kind
    result_text : str
        The result's type without qualifiers, such as ``"CUresult"`` or ``"intptr_t"``.
    parameters : tuple of Parameter
        Without Cython's trailing ``__pyx_skip_dispatch``.
    skip_dispatch : bool
        Whether that is there.
    """

    text: str
    result: Kind
    result_text: str
    parameters: tuple[Parameter, ...]
    skip_dispatch: bool = False
    _places: tuple[int, ...] = field(default=(), repr=False)

    def places(self) -> tuple[int, ...]:
        """Return each parameter's offset in the frame that a trampoline's entry code saves; see `trampoline`."""
        return self._places


def _split(text: str) -> list[str]:
    """Split at commas that are not inside parentheses."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        if character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    parts.append(text[start:].strip())
    return parts


#: CUDA names every callback type so, and each is a typedef of a function pointer; new releases add some.
_CALLBACK = re.compile(r"(?:CU|cuda)\w*Callback(?:_t)?")


def _parameter(text: str, whole: str) -> Parameter:
    found = _known_parameter(text)
    if found is None:
        raise UnsupportedPrototype(f"type {text!r} in {whole!r} is not known")
    return found


@lru_cache(maxsize=4096)
def _known_parameter(text: str) -> Parameter | None:
    """Return the parameter that `text` declares (its type, perhaps with a name)."""
    if _OPTIONAL.match(text):
        return Parameter(Kind.OPTIONAL, text)
    plain = re.sub(r"\b(?:const|struct|enum|volatile)\b", " ", text)
    plain = " ".join(_CYTHON_PREFIX.sub("", plain).split())
    if _OBJECT.match(text):
        return Parameter(Kind.OBJECT, text)
    if "*" in plain or "[" in plain:
        return Parameter(Kind.U64, text)
    for candidate in (plain, plain.rpartition(" ")[0]):  # with or without a parameter name at the end
        if candidate in _TYPES:
            return Parameter(_TYPES[candidate], text)
        if candidate in _STRUCTS:
            return Parameter(Kind.BYTES, text, _STRUCTS[candidate])
        if _CALLBACK.fullmatch(candidate):
            return Parameter(Kind.U64, text)
    return None


#: Offsets in the saved frame: six integer registers, eight vector registers, saved rbp and return address, then the
#: stack.
INTEGER_REGISTERS = 0
VECTOR_REGISTERS = 48
STACK_PARAMETERS = 144


def _place(parameters: list[Parameter], integers: int) -> tuple[int, ...]:
    """Return where the ABI leaves each parameter, `integers` registers being taken already."""
    places, vectors, stack = [], 0, STACK_PARAMETERS
    for parameter in parameters:
        words = -(-parameter.size // 8) if parameter.kind is Kind.BYTES else 1
        if parameter.kind in (Kind.F32, Kind.F64):
            if vectors < 8:
                places.append(VECTOR_REGISTERS + 8 * vectors)
                vectors += 1
                continue
        elif words <= 2 and integers + words <= 6:
            places.append(INTEGER_REGISTERS + 8 * integers)
            integers += words
            continue
        places.append(stack)
        stack += 8 * words
    return tuple(places)


@lru_cache(maxsize=4096)
def parse_prototype(text: str) -> Prototype:
    """Parse a capsule's name.

    Raises
    ------
    UnsupportedPrototype
        A type is not known, or the result is a struct.
    ValueError
        `text` is no prototype of a function.
    """
    match = re.match(r"(?P<result>[^()]*?)\s*\((?P<parameters>.*)\)\s*$", text, re.DOTALL)
    if match is None:
        raise ValueError(f"{text!r} is not the prototype of a function")
    result_text = re.sub(r"\b(?:const|enum)\b", " ", match["result"])
    result = _parameter(match["result"], text)
    if result.kind in (Kind.BYTES, Kind.OPTIONAL):
        raise UnsupportedPrototype(f"{text!r} returns a struct")
    parameters, skip = [], False
    pieces = _split(match["parameters"])
    if pieces not in ([""], ["void"]):
        parameters = [_parameter(piece, text) for piece in pieces]
        skip = any(piece.endswith("__pyx_skip_dispatch") for piece in pieces)
    places = _place(parameters, 0)
    kept = [
        (p, place) for p, place in zip(parameters, places, strict=True) if not p.text.endswith("__pyx_skip_dispatch")
    ]
    return Prototype(
        text=text,
        result=result.kind,
        result_text=" ".join(_CYTHON_PREFIX.sub("", result_text).split()),
        parameters=tuple(p for p, _ in kept),
        skip_dispatch=skip,
        _places=tuple(place for _, place in kept),
    )


def value_size(kind: Kind) -> int:
    """Return the size (and alignment) of a scalar in a struct."""
    return _SIZES.get(kind, 8)
