"""A small writer of LLVM IR with structured control flow, for the runtime's functions.

Variables are stack slots (LLVM promotes them); expressions are the names of values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from migproxy.softgpu.ptx.layout import Record


class Var:
    """A local variable."""

    def __init__(self, fn: Fn, ty: str, start: str) -> None:
        self.fn = fn
        self.ty = ty
        self.slot = fn.name()
        fn.allocas.append(f"  {self.slot} = alloca {ty}")
        self.set(start)

    def get(self) -> str:
        """Its value."""
        return self.fn.op(f"load {self.ty}, ptr {self.slot}")

    def set(self, value: str) -> None:
        """Assign."""
        self.fn.emit(f"store {self.ty} {value}, ptr {self.slot}")

    def add(self, value: str) -> None:
        """Add to it."""
        self.set(self.fn.op(f"add {self.ty} {self.get()}, {value}"))


class Fn:
    """One function while it is written."""

    def __init__(self, ret: str, name: str, *args: str, attributes: str = "nounwind") -> None:
        self.head = f"define {ret} @{name}({', '.join(args)}) {attributes} {{"
        self.allocas: list[str] = []
        self.lines: list[str] = []
        self.count = 0

    def name(self) -> str:
        """A fresh value name."""
        self.count += 1
        return f"%v{self.count}"

    def emit(self, text: str) -> None:
        """A line."""
        self.lines.append(f"  {text}")

    def op(self, text: str) -> str:
        """An instruction with a result."""
        result = self.name()
        self.emit(f"{result} = {text}")
        return result

    def var(self, ty: str, start: str = "0") -> Var:
        """A local variable."""
        return Var(self, ty, start)

    def _label(self) -> str:
        self.count += 1
        return f"l{self.count}"

    def _start(self, label: str) -> None:
        self.lines.append(f"{label}:")

    @contextmanager
    def when(self, cond: str) -> Iterator[None]:
        """``if cond:``"""
        inside, after = self._label(), self._label()
        self.emit(f"br i1 {cond}, label %{inside}, label %{after}")
        self._start(inside)
        yield
        self.emit(f"br label %{after}")
        self._start(after)

    @contextmanager
    def loop(self, cond: Callable[[], str]) -> Iterator[str]:
        """``while cond():``; yields the label to leave by."""
        top, inside, after = self._label(), self._label(), self._label()
        self.emit(f"br label %{top}")
        self._start(top)
        self.emit(f"br i1 {cond()}, label %{inside}, label %{after}")
        self._start(inside)
        yield after
        self.emit(f"br label %{top}")
        self._start(after)

    @contextmanager
    def count_up(self, start: str, stop: str) -> Iterator[str]:
        """``for i in range(start, stop):`` on i32."""
        i = self.var("i32", start)
        with self.loop(lambda: self.op(f"icmp slt i32 {i.get()}, {stop}")):
            now = i.get()
            yield now
            i.set(self.op(f"add i32 {now}, 1"))

    def jump(self, label: str) -> None:
        """``break``-like jump; what follows in the block is unreachable."""
        self.emit(f"br label %{label}")
        self._start(self._label())

    def ret(self, text: str = "void") -> None:
        """Return; what follows is unreachable."""
        self.emit(f"ret {text}")
        self._start(self._label())

    def place(self, record: Record, base: str, field: str) -> str:
        """Address of a record's field."""
        return self.op(f"getelementptr i8, ptr {base}, i64 {record.offset[field]}")

    def load(self, record: Record, base: str, field: str) -> str:
        """A record's field."""
        return self.op(f"load {record.kind[field]}, ptr {self.place(record, base, field)}")

    def store(self, record: Record, base: str, field: str, value: str) -> None:
        """Set a record's field."""
        self.emit(f"store {record.kind[field]} {value}, ptr {self.place(record, base, field)}")

    def item(self, ty: str, base: str, index: str, index_ty: str = "i32") -> str:
        """Address of an array item."""
        return self.op(f"getelementptr {ty}, ptr {base}, {index_ty} {index}")

    def get_item(self, ty: str, base: str, index: str) -> str:
        """An array item."""
        return self.op(f"load {ty}, ptr {self.item(ty, base, index)}")

    def set_item(self, ty: str, base: str, index: str, value: str) -> None:
        """Set an array item."""
        self.emit(f"store {ty} {value}, ptr {self.item(ty, base, index)}")

    def text(self) -> str:
        """The function."""
        return "\n".join([self.head, "entry:", *self.allocas, *self.lines, "  unreachable", "}", ""])
