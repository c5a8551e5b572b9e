"""The 200 functions that CuPy's users call most: which commands of one call wait for a reply. Run by
test_cupy_waits.py in a function; prints a JSON object, name → operations.

`FUNCTIONS` maps a name to a callable; what it needs lies on the device already.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from typing import Any

import cupy as cp
import cupyx
import cupyx.scipy.fft
import cupyx.scipy.linalg
import cupyx.scipy.ndimage
import cupyx.scipy.signal
import cupyx.scipy.sparse as sparse
import cupyx.scipy.special
import numpy as np

RANDOM = np.random.default_rng(4)
A = cp.asarray(RANDOM.normal(size=(16, 16)))
B = cp.asarray(RANDOM.normal(size=(16, 16)))
S = A @ A.T + 16 * cp.eye(16)
V = cp.asarray(RANDOM.normal(size=64))
P = cp.abs(V) + 1
I = cp.asarray(RANDOM.integers(0, 9, size=64))  # noqa: E741
M = V > 0
C = V + 1j * P
CUBE = cp.asarray(RANDOM.normal(size=(4, 8, 8)))
IMAGE = cp.asarray(RANDOM.normal(size=(24, 24)))
OUT = cp.empty_like(A)
HOST = RANDOM.normal(size=64)
INDEX = cp.asarray([5, 3, 8, 1])
CSR = sparse.csr_matrix(cp.asarray(np.diag(np.arange(1.0, 17.0)) + np.eye(16, k=1)))
STREAM = cp.cuda.Stream(non_blocking=True)
EVENT = cp.cuda.Event()
RAW = cp.RawKernel('extern "C" __global__ void f(double* x) { x[threadIdx.x] += 1; }', "f")
ELEMENT = cp.ElementwiseKernel("T x, T y", "T z", "z = x * y + 1", "waits_element")
REDUCE = cp.ReductionKernel("T x", "T y", "x * x", "a + b", "y = a", "0", "waits_reduce")


@cp.fuse()
def fused(x: cp.ndarray, y: cp.ndarray) -> cp.ndarray:
    return cp.sqrt(x * x + y * y)


PLAN = cupyx.scipy.fft.get_fft_plan(C)
RNG = cp.random.default_rng(3)

_UNARY = [
    "exp",
    "log",
    "sin",
    "cos",
    "tan",
    "tanh",
    "sqrt",
    "square",
    "abs",
    "negative",
    "sign",
    "floor",
    "isnan",
    "log1p",
]
_BINARY = [
    "add",
    "subtract",
    "multiply",
    "true_divide",
    "power",
    "maximum",
    "arctan2",
    "less",
    "equal",
    "fmod",
    "logical_and",
]
_REDUCTIONS = [
    "sum",
    "prod",
    "max",
    "min",
    "mean",
    "std",
    "argmax",
    "any",
    "all",
    "nansum",
    "median",
    "cumsum",
    "cumprod",
]
_SHAPES: dict[str, Callable[[], Any]] = {
    "reshape": lambda: A.reshape(8, 32),
    "transpose": lambda: A.T.copy(),
    "ravel": lambda: A.T.ravel(),
    "flatten": A.flatten,
    "concatenate": lambda: cp.concatenate([A, B]),
    "stack": lambda: cp.stack([A, B]),
    "vstack": lambda: cp.vstack([A, B]),
    "hstack": lambda: cp.hstack([A, B]),
    "split": lambda: cp.split(A, 4),
    "tile": lambda: cp.tile(V, 3),
    "repeat": lambda: cp.repeat(V, 3),
    "roll": lambda: cp.roll(V, 3),
    "pad": lambda: cp.pad(A, 2),
    "expand_dims": lambda: cp.expand_dims(A, 0),
    "squeeze": lambda: cp.squeeze(A[None]),
    "swapaxes": lambda: cp.swapaxes(A, 0, 1).copy(),
    "moveaxis": lambda: cp.moveaxis(CUBE, 0, 2).copy(),
    "broadcast_to": lambda: cp.broadcast_to(V, (3, 64)).copy(),
    "meshgrid": lambda: cp.meshgrid(V, V),
    "diff": lambda: cp.diff(V),
    "tril": lambda: cp.tril(A),
    "triu": lambda: cp.triu(A),
    "diag": lambda: cp.diag(V),
    "kron": lambda: cp.kron(A, cp.eye(2)),
}
_CREATION: dict[str, Callable[[], Any]] = {
    "zeros": lambda: cp.zeros((8, 8)),
    "ones": lambda: cp.ones((8, 8)),
    "full": lambda: cp.full((8, 8), 3.0),
    "empty": lambda: cp.empty((8, 8)),
    "arange": lambda: cp.arange(64),
    "linspace": lambda: cp.linspace(0, 1, 64),
    "eye": lambda: cp.eye(8),
    "zeros_like": lambda: cp.zeros_like(A),
    "ones_like": lambda: cp.ones_like(A),
    "array_of_device": lambda: cp.array(A),
    "asarray_of_device": lambda: cp.asarray(A),
    "copy": A.copy,
    "astype": lambda: A.astype(np.float32),
    "ascontiguousarray": lambda: cp.ascontiguousarray(A.T),
    "fill": lambda: OUT.fill(3),
}
_INDEXING: dict[str, Callable[[], Any]] = {
    "getitem_slice": lambda: A[2:5].copy(),
    "getitem_integers": lambda: A[INDEX],
    "setitem_scalar": lambda: OUT.__setitem__(3, 1.0),
    "setitem_slice": lambda: OUT.__setitem__(slice(2, 5), A[2:5]),
    "setitem_mask": lambda: V.__setitem__(V > 100, 0.0),
    "take": lambda: cp.take(V, INDEX),
    "put": lambda: cp.put(OUT, INDEX, V[:4]),
    "where": lambda: cp.where(M, V, P),
    "choose": lambda: cp.choose(I % 2, cp.stack([V, P])),
    "clip": lambda: cp.clip(V, -1, 1),
    "take_along_axis": lambda: cp.take_along_axis(V, INDEX, 0),
    "scatter_add": lambda: cupyx.scatter_add(OUT, (INDEX, INDEX), 1.0),
    "diagonal": lambda: A.diagonal().copy(),
    "searchsorted": lambda: cp.searchsorted(P, V),
    "sort": lambda: cp.sort(V),
    "argsort": lambda: cp.argsort(V),
    "partition": lambda: cp.partition(V, 5),
    "lexsort": lambda: cp.lexsort(cp.stack([V, P])),
    "digitize": lambda: cp.digitize(V, cp.arange(4.0)),
    "bincount": lambda: cp.bincount(I, minlength=16),
    "histogram": lambda: cp.histogram(V, bins=8, range=(-3, 3)),
    "interp": lambda: cp.interp(V, cp.arange(4.0), cp.arange(4.0)),
    "convolve": lambda: cp.convolve(V, P),
    "nan_to_num": lambda: cp.nan_to_num(V),
    "count_nonzero": lambda: cp.count_nonzero(M),
    "isclose": lambda: cp.isclose(V, P),
    "percentile": lambda: cp.percentile(V, cp.asarray([10.0, 50.0])),
    "nonzero": lambda: cp.nonzero(M),
    "boolean_mask": lambda: V[M],
    "unique": lambda: cp.unique(I),
    "flatnonzero": lambda: cp.flatnonzero(M),
    "isin": lambda: cp.isin(I, INDEX),
}
_LINALG: dict[str, Callable[[], Any]] = {
    "dot": lambda: cp.dot(A, B),
    "matmul": lambda: A @ B,
    "matmul_batched": lambda: CUBE @ CUBE,
    "vdot": lambda: cp.vdot(V, P),
    "inner": lambda: cp.inner(V, P),
    "outer": lambda: cp.outer(V, P),
    "tensordot": lambda: cp.tensordot(A, B),
    "einsum": lambda: cp.einsum("ij,jk->ik", A, B),
    "norm": lambda: cp.linalg.norm(A),
    "matrix_vector": lambda: A @ V[:16],
    "cholesky": lambda: cp.linalg.cholesky(S),
    "solve": lambda: cp.linalg.solve(S, B),
    "inv": lambda: cp.linalg.inv(S),
    "det": lambda: cp.linalg.det(S),
    "slogdet": lambda: cp.linalg.slogdet(S),
    "svd": lambda: cp.linalg.svd(A),
    "qr": lambda: cp.linalg.qr(A),
    "eigh": lambda: cp.linalg.eigh(S),
    "pinv": lambda: cp.linalg.pinv(A),
    "lstsq": lambda: cp.linalg.lstsq(S, B, rcond=None),
    "solve_triangular": lambda: cupyx.scipy.linalg.solve_triangular(S, B),
    "lu_factor": lambda: cupyx.scipy.linalg.lu_factor(S),
}
_OTHER: dict[str, Callable[[], Any]] = {
    "fft": lambda: cp.fft.fft(C),
    "ifft": lambda: cp.fft.ifft(C),
    "rfft": lambda: cp.fft.rfft(V),
    "irfft": lambda: cp.fft.irfft(C),
    "fft2": lambda: cp.fft.fft2(A),
    "fftn": lambda: cp.fft.fftn(CUBE),
    "fftshift": lambda: cp.fft.fftshift(C),
    "fftfreq": lambda: cp.fft.fftfreq(64),
    "fft_with_plan": lambda: cupyx.scipy.fft.fft(C, plan=PLAN),
    "random_rand": lambda: cp.random.rand(64),
    "random_randn": lambda: cp.random.randn(64),
    "random_uniform": lambda: cp.random.uniform(0, 1, 64),
    "random_normal": lambda: cp.random.normal(0, 1, 64),
    "random_randint": lambda: cp.random.randint(0, 9, 64),
    "random_permutation": lambda: cp.random.permutation(64),
    "random_choice": lambda: cp.random.choice(64, 8),
    "generator_random": lambda: RNG.random(64),
    "generator_normal": lambda: RNG.standard_normal(64),
    "generator_integers": lambda: RNG.integers(0, 9, 64),
    "sparse_dot_vector": lambda: CSR @ V[:16],
    "sparse_dot_matrix": lambda: CSR @ A,
    "sparse_transpose": lambda: CSR.T,
    "sparse_toarray": CSR.toarray,
    "gaussian_filter": lambda: cupyx.scipy.ndimage.gaussian_filter(IMAGE, 1.0),
    "median_filter": lambda: cupyx.scipy.ndimage.median_filter(IMAGE, 3),
    "shift_image": lambda: cupyx.scipy.ndimage.shift(IMAGE, 1.5, order=1),
    "zoom_image": lambda: cupyx.scipy.ndimage.zoom(IMAGE, 2, order=1),
    "fftconvolve": lambda: cupyx.scipy.signal.fftconvolve(V, P),
    "erf": lambda: cupyx.scipy.special.erf(V),
    "raw_kernel": lambda: RAW((1,), (64,), (V,)),
    "elementwise_kernel": lambda: ELEMENT(V, P),
    "reduction_kernel": lambda: REDUCE(V),
    "fused": lambda: fused(V, P),
    "ufunc_at_out": lambda: cp.add(A, B, out=OUT),
    "iadd": lambda: OUT.__iadd__(A),
    "real": lambda: C.real.copy(),
    "conj": lambda: C.conj(),
    "set_from_host": lambda: P.set(HOST),
    "asarray_of_host": lambda: cp.asarray(HOST),
    "stream_create": lambda: cp.cuda.Stream(non_blocking=True),
    "stream_with": lambda: STREAM.use() and None,
    "event_record": EVENT.record,
    "event_create": cp.cuda.Event,
    "stream_wait_event": lambda: STREAM.wait_event(EVENT),
    "pinned_memory": lambda: cp.cuda.alloc_pinned_memory(4096),
    "device_attributes": lambda: cp.cuda.Device().attributes["MultiProcessorCount"],
    "mem_info": lambda: cp.cuda.Device().mem_info,
    "pool_used_bytes": lambda: cp.get_default_memory_pool().used_bytes(),
    "big_allocation": lambda: cp.cuda.malloc_async(1 << 20),
    "get": V.get,
    "item": lambda: V[3].item(),
    "asnumpy": lambda: cp.asnumpy(V),
    "tolist": V.tolist,
    "view": lambda: A.view(np.int64),
    "atleast_2d": lambda: cp.atleast_2d(V),
    "broadcast_arrays": lambda: cp.broadcast_arrays(V, P),
    "copyto": lambda: cp.copyto(OUT, A),
    "memset_async": lambda: OUT.data.memset_async(0, OUT.nbytes),
    "copy_from_device_async": lambda: OUT.data.copy_from_device_async(A.data, A.nbytes),
    "size_of_axis": lambda: cp.size(A, 0),
    "result_type": lambda: cp.result_type(A, I),
    "may_share_memory": lambda: cp.may_share_memory(A, B),
    "stream_synchronize": STREAM.synchronize,
    "float": lambda: float(V.sum()),
    "bool": lambda: bool(M.any()),
    "synchronize": cp.cuda.Stream.null.synchronize,
    "device_synchronize": lambda: cp.cuda.Device().synchronize(),
    "event_synchronize": EVENT.synchronize,
    "stream_done": lambda: cp.cuda.Stream.null.done,
    "allclose": lambda: bool(cp.allclose(V, V)),
}

FUNCTIONS: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: getattr(cp, name)(P if name in ("log", "sqrt") else V) for name in _UNARY},
    **{name: lambda name=name: getattr(cp, name)(V, P) for name in _BINARY},
    **{name: lambda name=name: getattr(cp, name)(A, axis=0) for name in _REDUCTIONS},
    **{f"{name}_of_all": lambda name=name: getattr(cp, name)(V) for name in ("sum", "max", "argmax")},
    **_SHAPES,
    **_CREATION,
    **_INDEXING,
    **_LINALG,
    **_OTHER,
}


def waiting(first: int, last: int) -> list[str]:
    """Return the operations of the commands from `first` up to `last` that asked for a reply; they are still in the
    ring.
    """
    from migproxy.abi import layout
    from migproxy.abi.ops import Op
    from migproxy.session import session

    assert last - first < layout.SLOT_COUNT
    found = []
    for number in range(first, last):
        address = session.current().ring.base + layout.RING_OFFSET + number % layout.SLOT_COUNT * layout.SLOT_SIZE
        operation, flags, *_ = layout.SLOT_HEADER.unpack(ctypes.string_at(address, layout.SLOT_HEADER.size))
        if flags & layout.FLAG_WAIT:
            found.append(Op(operation).name)
    return found


def commands() -> int:
    """Return how many commands this process has submitted."""
    from migproxy.abi import layout
    from migproxy.session import session

    return ctypes.c_uint64.from_address(session.current().ring.base + layout.HEAD_OFFSET).value


def main() -> None:
    found = {}
    for name, call in FUNCTIONS.items():
        call()  # compiles, makes handles and plans, asks for workspaces
        cp.cuda.Stream.null.use()
        before = commands()
        call()
        found[name] = waiting(before, commands())
        cp.cuda.Stream.null.use()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
