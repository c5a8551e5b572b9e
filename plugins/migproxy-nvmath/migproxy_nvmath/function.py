"""In the function: the modules stay, with their enumerations and errors; the functions of their tables are carried."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from migproxy.arena.memory_unsafe import copy_out
from migproxy.session.library import RemoteLibrary
from migproxy_nvmath import tables


def install(module: ModuleType) -> None:
    """Put the carried functions into one of nvmath's modules, right after it was imported."""
    short = module.__name__.rpartition(".")[2]
    table = tables.library_table(short)
    errors = module
    if short == "cusolverDn":
        import nvmath.bindings.cusolver as errors  # type: ignore[no-redef]
    error = vars(errors)[table.error]
    if short == "cublasLt":  # its statuses are cuBLAS's
        import nvmath.bindings.cublas as errors  # type: ignore[no-redef]
    statuses = vars(errors).get("Status") or vars(errors)["Result"]
    known = {int(each) for each in statuses}

    def make(status: int | None, message: str) -> Exception:
        if status is None:
            return RuntimeError(message)
        # Its own constructor would ask the library, which a function does not have, for the text.
        made: Any = error.__new__(error)
        text = f"{statuses(status).name} ({status})" if status in known else f"status {status}"
        made.args = (f"{text}: {message}" if message else text,)
        made.status = status
        return made  # type: ignore[no-any-return]

    remote = RemoteLibrary(table, error=make)
    for name, function in remote.functions().items():
        setattr(module, name, function)
    if short == "cublas":
        _pointer_modes(module, make, table.not_supported)
    if short == "cublasLt":
        _scale_types(module)


def _pointer_modes(module: ModuleType, make: Any, not_supported: int) -> None:
    """Scalars of cuBLAS are host memory here."""

    def set_pointer_mode(handle: int, mode: int) -> None:
        if mode:
            raise make(not_supported, "scalars in device memory are refused by name: those on the host are carried")

    module.set_pointer_mode = set_pointer_mode  # type: ignore[attr-defined]
    module.get_pointer_mode = lambda handle: 0  # type: ignore[attr-defined]


def _scale_types(module: ModuleType) -> None:
    """How long alpha and beta of ``cublasLt.matmul`` are, the descriptor's scale type says: it is kept here."""
    sizes: dict[int, int] = {}
    create, destroy, matmul = module.matmul_desc_create, module.matmul_desc_destroy, module.matmul

    def matmul_desc_create(compute_type: int, scale_type: int) -> int:
        made: int = create(compute_type, scale_type)
        sizes[made] = tables.DATA_TYPES[int(scale_type)]
        return made

    def matmul_desc_destroy(matmul_desc: int) -> None:
        sizes.pop(matmul_desc, None)
        destroy(matmul_desc)

    def carried(light_handle: int, compute_desc: int, alpha: int, *rest: Any) -> None:
        size = sizes.get(compute_desc, 4)
        before, (beta, *others) = rest[:4], rest[4:]
        scalars = [copy_out(int(each), size) if each else b"" for each in (alpha, beta)]
        matmul(light_handle, compute_desc, scalars[0], *before, scalars[1], *others)

    module.matmul_desc_create = matmul_desc_create  # type: ignore[attr-defined]
    module.matmul_desc_destroy = matmul_desc_destroy  # type: ignore[attr-defined]
    module.matmul = carried  # type: ignore[attr-defined]


def workspaces(module: ModuleType) -> None:
    """A session has no pools of host memory: nvmath's workspaces take its other kind of pinned memory."""
    module.get_pinned_async_memory_resource = lambda device_id: None  # type: ignore[attr-defined]
