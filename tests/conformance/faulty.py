"""Run a faulty kernel over a transport and print the statuses of the calls after it: ``faulty.py TRANSPORT KERNEL``."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

from transports import Arguments, compile_ptx, opened

from migproxy.errors import CudaError


def status_of(call: Callable[[], object]) -> int:
    try:
        call()
    except CudaError as error:
        return error.status
    return 0


def main(transport: str, name: str) -> None:
    manager = opened(transport)
    cuda: Any = manager.__enter__()
    function = cuda.module_function(cuda.module_load(compile_ptx()), name.encode())
    pointer = cuda.mem_alloc(1024)
    arguments = Arguments(*([ctypes.c_void_p(0x10)] if name == "store" else []))
    cuda.launch(function, (1, 1, 1), (1, 1, 1), 0, 0, arguments.address)
    print(
        status_of(cuda.context_synchronize),
        status_of(lambda: cuda.memset(pointer, 0, 1, 1024)),
        status_of(cuda.context_synchronize),
    )
    try:
        manager.__exit__(None, None, None)
    except CudaError as error:
        # The direct transports reset a context that is beyond use.
        print(f"closing: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
