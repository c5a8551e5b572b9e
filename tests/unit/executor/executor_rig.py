"""Both ends of one session in this process, on the software GPU."""

from __future__ import annotations

import os

from migproxy.abi import control, layout
from migproxy.abi.protocol import DEVICE_GRANULE, PROTOCOL_VERSION
from migproxy.arena import segment
from migproxy.arena.ring import Consumer, Producer, write_header
from migproxy.executor import pump_block
from migproxy.executor.device_memory import DeviceMemory
from migproxy.executor.dispatch import carry_out, load_handlers
from migproxy.executor.driver import SoftwareDriver
from migproxy.executor.facts import read_facts
from migproxy.executor.handlers.callbacks import HostFunctions
from migproxy.executor.plugin_host import PluginHost
from migproxy.executor.pump_tables import PumpTables
from migproxy.executor.state import SessionState

SIZE = layout.HEAP_OFFSET + (4 << 20)
QUOTA = 64 << 20
WINDOW = 1 << 30


class Rig:
    """Both ends of one session in this process; `step` lets the executor do what is in the ring."""

    def __init__(self) -> None:
        self.base = segment.find_window(SIZE)
        segment.reserve_at(self.base, SIZE)
        fd = segment.create("rig", SIZE)
        segment.map_over(fd, self.base, SIZE)
        os.close(fd)
        write_header(self.base, SIZE)
        load_handlers()
        driver = SoftwareDriver()
        driver.call("cuInit", 0)
        driver.call("cuCtxSetCurrent", driver.out("cuDevicePrimaryCtxRetain", 0))
        self.heap = self.base + layout.HEAP_OFFSET
        self.device = driver.out("cuMemAddressReserve", WINDOW, DEVICE_GRANULE, 0, 0)
        windows = control.Windows(self.base, SIZE, self.device, WINDOW)
        spec = control.SessionSpec(PROTOCOL_VERSION, "test", windows, [SIZE], QUOTA, "software", 0, [])
        consumer = Consumer(self.base, [(self.heap, 4 << 20)])
        window = self.device, self.device + WINDOW
        tables = PumpTables(driver, self.base, (self.heap, self.base + SIZE), window)
        memory = DeviceMemory(driver, self.device, WINDOW, QUOTA, tables)
        self.state = SessionState(driver, consumer, memory, tables, spec, read_facts(driver, QUOTA, 0))
        self.state.host_functions = HostFunctions(self.state)
        self.state.plugins = PluginHost(self.state, [])
        self.producer = Producer(self.base)

    def step(self) -> None:
        state = self.state
        for _ in range(300):
            state.pump.set(pump_block.PYTHON_PENDING, int(bool(state.completions)))
            reason = state.pump.run()
            state.consumer.tail = state.pump.tail
            if reason in (pump_block.REASON_COMMAND, pump_block.REASON_EVENTS):
                carry_out(state, state.consumer.parse(state.pump.command(), state.pump.tail - 1))
            elif reason == pump_block.REASON_ERROR:
                command = state.consumer.parse(state.pump.command(), state.pump.tail - 1)
                state.fail(command, state.pump.get(pump_block.STATUS))
            state.completions.poll()
            state.publish_frees()
            if reason == pump_block.REASON_IDLE and not state.completions:
                return
        raise AssertionError("the executor does not come to rest")

    def call(self, op: int, payload: bytes, stream: int = 0) -> tuple[int, bytes]:
        number = self.producer.submit(op, payload, stream=stream, flags=layout.FLAG_WAIT)
        self.step()
        return self.producer.wait(number, 5.0)

    def close(self) -> None:
        self.state.memory.release_all()
        segment.release(self.base, SIZE)
