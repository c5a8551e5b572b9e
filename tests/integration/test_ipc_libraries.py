"""CUDA IPC as unmodified programs use it: CuPy, Numba and cuda-python share memory and events with a child process."""

from __future__ import annotations

import pytest
from processes import RunScript

CUPY = """
import multiprocessing, sys
import cupy
rt = cupy.cuda.runtime

def work(handle, event, queue):
    pointer = rt.ipcOpenMemHandle(handle)
    rt.streamWaitEvent(0, rt.ipcOpenEventHandle(event))
    memory = cupy.cuda.UnownedMemory(pointer, 8000, None)
    array = cupy.ndarray((1000,), "i8", cupy.cuda.MemoryPointer(memory, 0))
    total = int(array.sum())
    array *= 2
    cupy.cuda.Device().synchronize()
    rt.ipcCloseMemHandle(pointer)
    queue.put(total)

if __name__ == "__main__":
    memory = cupy.cuda.Memory(8000)
    array = cupy.ndarray((1000,), "i8", cupy.cuda.MemoryPointer(memory, 0))
    array[...] = cupy.arange(1000)
    event = rt.eventCreateWithFlags(rt.eventDisableTiming | rt.eventInterprocess)
    rt.eventRecord(event, 0)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=work, args=(rt.ipcGetMemHandle(memory.ptr), rt.ipcGetEventHandle(event), queue))
    child.start()
    assert queue.get(timeout=60) == 499500
    child.join()
    assert int(array.sum()) == 999000
    try:
        rt.ipcGetMemHandle(cupy.cuda.malloc_async(512).ptr)
    except rt.CUDARuntimeError as error:
        assert error.status == 1
    else:
        raise AssertionError("memory of a pool has no handle")
    print("fine")
"""


def test_cupy_shares_with_a_child(run_script: RunScript) -> None:
    done = run_script(CUPY)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", ""), done.said


NUMBA = """
import os
os.environ["NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS"] = "0"
import multiprocessing
import numpy
from numba import cuda

def work(array, reserved, queue):
    with array as opened:
        first = opened.copy_to_host()
    with cuda.open_ipc_array(reserved, shape=10, dtype=numpy.intp) as opened:
        opened[0] = 77
    queue.put(first)

if __name__ == "__main__":
    host = numpy.arange(10, dtype=numpy.intp)
    array = cuda.to_device(host)
    handle = cuda.current_context().get_ipc_handle(array.gpu_data)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=work, args=(array[3:8].get_ipc_handle(), handle.handle.reserved, queue))
    child.start()
    assert (queue.get(timeout=60) == host[3:8]).all()
    child.join()
    assert array.copy_to_host()[0] == 77
    print("fine")
"""


def test_numba_shares_with_a_child(run_script: RunScript) -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    pytest.importorskip("numba.cuda")
    if not hasattr(driver.CUipcMemHandle, "reserved"):
        pytest.skip("numba-cuda reads a field of the handle that this cuda-bindings has not")
    done = run_script(NUMBA)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", ""), done.said


BINDINGS = """
import subprocess, sys
from cuda.bindings import driver, runtime

def check(result):
    assert result[0] == 0, result
    return result[1] if len(result) == 2 else result[1:]

check(driver.cuInit(0)); check(runtime.cudaFree(0))
if len(sys.argv) == 1:
    memory = check(driver.cuMemAlloc(4096)); check(driver.cuMemsetD8(memory, 6, 4096))
    handle = check(driver.cuIpcGetMemHandle(int(memory) + 100))
    capable = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE
    assert check(driver.cuPointerGetAttribute(capable, memory))
    event = check(driver.cuEventCreate(6)); check(driver.cuEventRecord(event, 0))
    same = check(runtime.cudaIpcGetMemHandle(int(memory)))
    import ctypes
    raw = lambda each: ctypes.string_at(each.getPtr(), 64).hex()
    assert raw(same) == raw(handle)
    arguments = [raw(handle), raw(check(driver.cuIpcGetEventHandle(event)))]
    print(subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, timeout=60))
else:
    import ctypes
    handle, event = driver.CUipcMemHandle(), driver.CUipcEventHandle()
    for each, text in zip((handle, event), sys.argv[1:]):
        ctypes.memmove(each.getPtr(), bytes.fromhex(text), 64)
    place = check(driver.cuIpcOpenMemHandle(handle, 1))
    assert driver.cuIpcOpenMemHandle(handle, 0)[0] == 1
    opened = check(driver.cuIpcOpenEventHandle(event)); check(driver.cuEventSynchronize(opened))
    data = bytearray(4096); check(driver.cuMemcpyDtoH(data, place, 4096)); assert data == b"\\6" * 4096
    check(driver.cuIpcCloseMemHandle(place)); assert driver.cuIpcCloseMemHandle(place)[0] == 1
    again = runtime.cudaIpcMemHandle_t(); ctypes.memmove(again.getPtr(), bytes.fromhex(sys.argv[1]), 64)
    check(runtime.cudaIpcCloseMemHandle(check(runtime.cudaIpcOpenMemHandle(again, 1))))
    print("fine", end="")
"""


def test_the_driver_and_runtime_api(run_script: RunScript) -> None:
    pytest.importorskip("cuda.bindings.driver")
    done = run_script(BINDINGS)
    assert done.returncode == 0, done.said
    assert "returncode=0, stdout='fine', stderr=''" in done.stdout, done.said


CORE = """
import multiprocessing
from cuda.core import Device, Event, EventOptions

def device():
    made = Device(0)
    made.set_current()
    return made

def work(descriptor, queue):
    device()
    event = Event.from_ipc_descriptor(descriptor)
    event.sync()
    queue.put(event.is_done)

if __name__ == "__main__":
    event = device().create_stream().record(options=EventOptions(ipc_enabled=True))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=work, args=(event.ipc_descriptor, queue))
    child.start()
    assert queue.get(timeout=60)
    child.join()
    print("fine")
"""


def test_cuda_core_shares_an_event(run_script: RunScript) -> None:
    pytest.importorskip("cuda.core")
    done = run_script(CORE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", ""), done.said
