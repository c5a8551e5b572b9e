"""Compile functions of the small language of ``migproxy.arena.machine_unsafe`` to machine code.

What it takes: functions of which every parameter and the result are annotated with a type of that module; assignments
to plain names, ``if``/``elif``/``else``, ``while``, ``for name in range(…)``, ``break``, ``continue``, ``return``,
integer arithmetic (``+ - * // % & | ^ << >> ~``), unsigned comparisons, ``in`` a tuple, ``and``/``or``/``not``
(giving 0 or 1), ``… if … else …``, calls of the words, of `External` and `Indirect` functions and of each other. Names
that are not variables are looked up in the function's module when it is compiled, and must be integers or functions.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from migproxy.arena import machine_unsafe as machine
from migproxy.jit import compiler

_WIDTH = {
    "U8": "i8",
    "U16": "i16",
    "U32": "i32",
    "U64": "i64",
    "I32": "i32",
    "I64": "i64",
    "F64": "double",
    "F32": "float",
    "None": "void",
}
_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.FloorDiv: "udiv",
    ast.Mod: "urem",
    ast.BitAnd: "and",
    ast.BitOr: "or",
    ast.BitXor: "xor",
    ast.LShift: "shl",
    ast.RShift: "lshr",
}
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Lt: "ult",
    ast.LtE: "ule",
    ast.Gt: "ugt",
    ast.GtE: "uge",
}
_LOADS = {
    "load8": ("i8", "", "zext"),
    "load16": ("i16", "", "zext"),
    "load32": ("i32", "", "zext"),
    "load64": ("i64", "", ""),
    "load8_signed": ("i8", "", "sext"),
    "load16_signed": ("i16", "", "sext"),
    "load32_signed": ("i32", "", "sext"),
    "load32_acquire": ("i32", "acquire", "zext"),
    "load64_acquire": ("i64", "acquire", ""),
}
_STORES = {
    "store8": ("i8", ""),
    "store16": ("i16", ""),
    "store32": ("i32", ""),
    "store64": ("i64", ""),
    "store32_release": ("i32", "release"),
    "store64_release": ("i64", "release"),
}
_DECLARATIONS = """
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare i64 @llvm.ctlz.i64(i64, i1)
declare i64 @llvm.cttz.i64(i64, i1)
declare i64 @llvm.readcyclecounter()
declare void @llvm.x86.sse2.pause()
"""


def _symbol(function: Callable[..., Any]) -> str:
    """Return a function's linker name: never one of the C library, which LLVM calls for copies and fills."""
    return f"migproxy.{function.__name__}"


class CompileError(Exception):
    """A function uses something that the small language does not have."""


def _without_in(node: ast.expr) -> ast.expr:
    """Return ``a in (b, c)`` as ``a == b or a == c``, ``not in`` as its contrary, and everything else as it is."""
    if isinstance(node, ast.Compare) and isinstance(node.comparators[0], ast.Tuple):
        cases: list[ast.expr] = [ast.Compare(node.left, [ast.Eq()], [case]) for case in node.comparators[0].elts]
        if isinstance(node.ops[0], ast.In):
            return ast.BoolOp(ast.Or(), cases)
        if isinstance(node.ops[0], ast.NotIn):
            return ast.UnaryOp(ast.Not(), ast.BoolOp(ast.Or(), cases))
    return node


class _Function:
    """Emits the LLVM assembly of one function."""

    def __init__(self, module: _Module, function: Callable[..., Any], *, public: bool) -> None:
        self.module = module
        self.function = function
        self.tree = machine.function_tree(function)
        self.scope = function.__globals__
        self.lines: list[str] = []
        self.count = 0
        self.open = True  # whether the current block still lacks its terminator
        self.loops: list[tuple[str, str]] = []
        annotations = dict(function.__annotations__)
        self.result = annotations.pop("return")
        self.parameters = list(annotations.items())
        self.variables = {name for name, _ in self.parameters}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.variables.add(node.id)
        linkage = "" if public else "internal "
        signature = ", ".join(f"{_WIDTH[kind]} %arg.{name}" for name, kind in self.parameters)
        self.header = f"define {linkage}{_WIDTH[self.result]} @{_symbol(function)}({signature}) nounwind {{"

    # -- helpers ------------------------------------------------------------------------------------------------------
    def fail(self, node: ast.AST, what: str) -> CompileError:
        line = self.function.__code__.co_firstlineno + getattr(node, "lineno", 1) - 1
        return CompileError(f"{inspect.getfile(self.function)}:{line}: {what}: {ast.unparse(node)}")

    def emit(self, text: str) -> None:
        if self.open:
            self.lines.append("  " + text)

    def value(self, text: str) -> str:
        self.count += 1
        name = f"%v{self.count}"
        self.emit(f"{name} = {text}")
        return name

    def label(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def start(self, label: str) -> None:
        if self.open:
            self.lines.append(f"  br label %{label}")
        self.lines.append(f"{label}:")
        self.open = True

    def end(self, text: str) -> None:
        if self.open:
            self.lines.append("  " + text)
        self.open = False

    def pointer(self, address: str) -> str:
        return self.value(f"inttoptr i64 {address} to ptr")

    def widen(self, value: str, kind: str) -> str:
        """Return the 64-bit form of a value of type `kind`."""
        width = _WIDTH[kind]
        if kind == "F64":
            return self.value(f"bitcast double {value} to i64")
        if kind == "F32":
            return self.value(f"zext i32 {self.value(f'bitcast float {value} to i32')} to i64")
        if width == "i64":
            return value
        return self.value(f"{'sext' if kind.startswith('I') else 'zext'} {width} {value} to i64")

    def narrow(self, value: str, kind: str) -> str:
        """Return a 64-bit value as one of type `kind`."""
        width = _WIDTH[kind]
        if kind == "F64":
            return self.value(f"bitcast i64 {value} to double")
        if kind == "F32":
            return self.value(f"bitcast i32 {self.value(f'trunc i64 {value} to i32')} to float")
        return value if width == "i64" else self.value(f"trunc i64 {value} to {width}")

    def lookup(self, node: ast.expr) -> Any:
        """Return the module-level object that a name or dotted name means."""
        if isinstance(node, ast.Name):
            if node.id in self.scope:
                return self.scope[node.id]
        elif isinstance(node, ast.Attribute):
            return getattr(self.lookup(node.value), node.attr)
        raise self.fail(node, "unknown name")

    # -- expressions --------------------------------------------------------------------------------------------------
    def expression(self, node: ast.expr) -> str:
        """Emit an expression; return its 64-bit value."""
        node = _without_in(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return str(int(node.value) & machine.MASK64)
        if isinstance(node, ast.Name) and node.id in self.variables:
            return self.value(f"load i64, ptr %{node.id}")
        if isinstance(node, ast.Name | ast.Attribute):
            constant = self.lookup(node)
            if isinstance(constant, machine.Symbol):
                self.module.symbols.add(constant.name)
                return f"add (i64 ptrtoint (ptr @{constant.name} to i64), i64 {constant.offset})"
            if isinstance(constant, int):
                if 1 << 32 < constant < 1 << 47 and constant & (constant + 1) and constant & (constant - 1):
                    raise self.fail(node, "looks like an address of this process: make it a Symbol")
                return str(int(constant) & machine.MASK64)
            raise self.fail(node, "not an integer")
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            left, right = self.expression(node.left), self.expression(node.right)
            return self.value(f"{_BINARY[type(node.op)]} i64 {left}, {right}")
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Invert):
            operand = self.expression(node.operand)
            return self.value(f"sub i64 0, {operand}" if isinstance(node.op, ast.USub) else f"xor i64 {operand}, -1")
        if isinstance(node, ast.BoolOp) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)):
            return self.expression(ast.IfExp(node, ast.Constant(1), ast.Constant(0)))
        if isinstance(node, ast.Compare):
            return self.value(f"zext i1 {self.condition(node)} to i64")
        if isinstance(node, ast.IfExp):
            self.count += 1
            slot = f"%choice{self.count}"
            self.module.allocas.append(f"  {slot} = alloca i64")
            yes, no, end = self.label("yes"), self.label("no"), self.label("endchoice")
            self.branch(node.test, yes, no)
            for label, arm in ((yes, node.body), (no, node.orelse)):
                self.start(label)
                self.emit(f"store i64 {self.expression(arm)}, ptr {slot}")
                self.end(f"br label %{end}")
            self.start(end)
            return self.value(f"load i64, ptr {slot}")
        if isinstance(node, ast.Call):
            result = self.call(node)
            if result is None:
                raise self.fail(node, "a call without a result used as a value")
            return result
        raise self.fail(node, "not in the small language")

    def condition(self, node: ast.expr) -> str:
        """Emit an expression as a truth value without branches."""
        if isinstance(node, ast.Compare):
            if len(node.ops) != 1 or type(node.ops[0]) not in _COMPARE:
                raise self.fail(node, "only one plain comparison at a time")
            left, right = self.expression(node.left), self.expression(node.comparators[0])
            return self.value(f"icmp {_COMPARE[type(node.ops[0])]} i64 {left}, {right}")
        return self.value(f"icmp ne i64 {self.expression(node)}, 0")

    def branch(self, node: ast.expr, yes: str, no: str) -> None:
        """Emit a jump to `yes` or `no`, evaluating ``and``/``or`` only as far as needed."""
        node = _without_in(node)
        if isinstance(node, ast.BoolOp):
            for operand in node.values[:-1]:
                more = self.label("more")
                if isinstance(node.op, ast.And):
                    self.branch(operand, more, no)
                else:
                    self.branch(operand, yes, more)
                self.start(more)
            self.branch(node.values[-1], yes, no)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self.branch(node.operand, no, yes)
        elif isinstance(node, ast.Constant):
            self.end(f"br label %{yes if node.value else no}")
        else:
            self.end(f"br i1 {self.condition(node)}, label %{yes}, label %{no}")

    def call(self, node: ast.Call) -> str | None:
        """Emit a call; return its 64-bit result, or None for ``void``."""
        target = self.lookup(node.func)
        arguments = [self.expression(argument) for argument in node.args]
        if isinstance(target, machine.External):
            self.module.all_externals.append(target)
            if target.fixed:
                self.module.externals[target.name] = target
                address = f"@{target.name}"
            else:
                address = f"inttoptr (i64 {target.address} to ptr)"
            return self.call_address(address, target.result, target.parameters, arguments, node)
        if isinstance(target, machine.Indirect):
            address = self.pointer(arguments[0])
            return self.call_address(address, target.result, target.parameters, arguments[1:], node)
        if callable(target) and getattr(target, "__module__", "") == machine.__name__:
            name = (
                node.func.id
                if isinstance(node.func, ast.Name)
                else node.func.attr
                if isinstance(node.func, ast.Attribute)
                else ""
            )
            return self.word(name, arguments, node)
        if machine.is_compilable(target):
            self.module.need(target)
            kinds = list(target.__annotations__.values())
            return self.call_address(f"@{_symbol(target)}", kinds[-1], kinds[:-1], arguments, node)
        raise self.fail(node, "cannot be called from compiled code")

    def call_address(
        self, address: str, result: str, parameters: Iterable[str], arguments: list[str], node: ast.AST
    ) -> str | None:
        kinds = list(parameters)
        if len(kinds) != len(arguments):
            raise self.fail(node, f"takes {len(kinds)} arguments, {len(arguments)} given")
        passed = []
        for kind, value in zip(kinds, arguments, strict=True):
            extension = {"U8": "zeroext ", "U16": "zeroext "}.get(kind, "")
            passed.append(f"{_WIDTH[kind]} {extension}{self.narrow(value, kind)}")
        text = f"call {_WIDTH[result]} {address}({', '.join(passed)})"
        if result == "None":
            self.emit(text)
            return None
        return self.widen(self.value(text), result)

    def word(self, name: str, arguments: list[str], node: ast.AST) -> str | None:
        """Emit one of the words of `machine_unsafe`."""
        if name == "stack":
            if not arguments[0].isdigit():
                raise self.fail(node, "the size of a stack buffer must be a constant")
            self.count += 1
            self.module.allocas.append(f"  %stack{self.count} = alloca [{arguments[0]} x i8], align 16")
            return self.value(f"ptrtoint ptr %stack{self.count} to i64")
        if name in _LOADS:
            width, order, extension = _LOADS[name]
            pointer = self.pointer(arguments[0])
            kind = (
                f"atomic {width}, ptr {pointer} {order}, align {int(width[1:]) // 8}"
                if order
                else f"{width}, ptr {pointer}, align 1"
            )
            value = self.value(f"load {kind}")
            return self.value(f"{extension} {width} {value} to i64") if extension else value
        if name in _STORES:
            width, order = _STORES[name]
            pointer = self.pointer(arguments[0])
            value = arguments[1] if width == "i64" else self.value(f"trunc i64 {arguments[1]} to {width}")
            tail = f" {order}, align {int(width[1:]) // 8}" if order else ", align 1"
            self.emit(f"store {'atomic ' if order else ''}{width} {value}, ptr {pointer}{tail}")
            return None
        if name == "exchange32":
            value = self.value(f"trunc i64 {arguments[1]} to i32")
            old = self.value(f"atomicrmw xchg ptr {self.pointer(arguments[0])}, i32 {value} seq_cst")
            return self.value(f"zext i32 {old} to i64")
        if name == "add64":
            return self.value(f"atomicrmw add ptr {self.pointer(arguments[0])}, i64 {arguments[1]} seq_cst")
        if name in ("compare_exchange32", "compare_exchange64"):
            width = "i" + name[-2:]
            expected, value = (self.narrow(a, "U" + name[-2:]) for a in arguments[1:])
            pair = self.value(
                f"cmpxchg ptr {self.pointer(arguments[0])}, {width} {expected}, {width} {value} seq_cst seq_cst"
            )
            old = self.value(f"extractvalue {{{width}, i1}} {pair}, 0")
            return self.widen(old, "U" + name[-2:])
        if name in ("copy", "copy_once", "fill"):
            pointer = self.pointer(arguments[0])
            if name == "fill":
                value = self.value(f"trunc i64 {arguments[1]} to i8")
                self.emit(f"call void @llvm.memset.p0.i64(ptr {pointer}, i8 {value}, i64 {arguments[2]}, i1 false)")
            else:  # volatile keeps the optimiser from reading the source again where the copy was meant
                source, once = self.pointer(arguments[1]), "true" if name == "copy_once" else "false"
                self.emit(
                    f"call void @llvm.memcpy.p0.p0.i64(ptr {pointer}, ptr {source}, i64 {arguments[2]}, i1 {once})"
                )
            return None
        if name == "fence":
            self.emit("fence seq_cst")
            return None
        if name == "pause":
            self.emit("call void @llvm.x86.sse2.pause()")
            return None
        if name == "time_stamp":
            return self.value("call i64 @llvm.readcyclecounter()")
        if name in ("leading_zeros", "trailing_zeros"):
            return self.value(
                f"call i64 @llvm.{'ctlz' if name[0] == 'l' else 'cttz'}.i64(i64 {arguments[0]}, i1 false)"
            )
        if name == "less_signed":
            return self.value(f"zext i1 {self.value(f'icmp slt i64 {arguments[0]}, {arguments[1]}')} to i64")
        if name == "float_to_double":
            wide = self.value(f"fpext float {self.narrow(arguments[0], 'F32')} to double")
            return self.widen(wide, "F64")
        if name == "double_to_float":
            short = self.value(f"fptrunc double {self.narrow(arguments[0], 'F64')} to float")
            return self.widen(short, "F32")
        raise self.fail(node, "not a word of compiled code")

    # -- statements ---------------------------------------------------------------------------------------------------
    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Expr):
            if isinstance(node.value, ast.Call):
                self.call(node.value)
            elif not isinstance(node.value, ast.Constant):
                raise self.fail(node, "a value that nobody uses")
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            value = self.expression(node.value)
            self.emit(f"store i64 {value}, ptr %{node.targets[0].id}")
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            value = self.expression(ast.BinOp(ast.Name(node.target.id, ast.Load()), node.op, node.value))
            self.emit(f"store i64 {value}, ptr %{node.target.id}")
        elif isinstance(node, ast.Return):
            if self.result == "None":
                self.end("ret void")
            else:
                if node.value is None:
                    raise self.fail(node, "a result is missing")
                value = self.narrow(self.expression(node.value), self.result)
                self.end(f"ret {_WIDTH[self.result]} {value}")
        elif isinstance(node, ast.If):
            yes, no, end = self.label("then"), self.label("else"), self.label("endif")
            self.branch(node.test, yes, no)
            self.start(yes)
            self.block(node.body)
            self.end(f"br label %{end}")
            self.start(no)
            self.block(node.orelse)
            self.start(end)
        elif isinstance(node, ast.While) and not node.orelse:
            test, body, end = self.label("while"), self.label("do"), self.label("endwhile")
            self.start(test)
            self.branch(node.test, body, end)
            self.start(body)
            self.loops.append((test, end))
            self.block(node.body)
            self.loops.pop()
            self.end(f"br label %{test}")
            self.start(end)
        elif isinstance(node, ast.For):
            self.for_range(node)
        elif isinstance(node, ast.Break):
            self.end(f"br label %{self.loops[-1][1]}")
        elif isinstance(node, ast.Continue):
            self.end(f"br label %{self.loops[-1][0]}")
        elif not isinstance(node, ast.Pass):
            raise self.fail(node, "not in the small language")

    def for_range(self, node: ast.For) -> None:
        call = node.iter
        if not (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id == "range"
            and isinstance(node.target, ast.Name)
        ):
            raise self.fail(node, "only 'for name in range(…)'")
        bounds = [self.expression(argument) for argument in call.args]
        first, last = ("0", bounds[0]) if len(bounds) == 1 else (bounds[0], bounds[1])
        if len(bounds) > 2:
            raise self.fail(node, "no steps")
        self.count += 1
        counter = f"%counter{self.count}"
        self.module.allocas.append(f"  {counter} = alloca i64")
        self.emit(f"store i64 {first}, ptr {counter}")
        test, body, step, end = self.label("for"), self.label("do"), self.label("next"), self.label("endfor")
        self.start(test)
        value = self.value(f"load i64, ptr {counter}")
        self.end(f"br i1 {self.value(f'icmp ult i64 {value}, {last}')}, label %{body}, label %{end}")
        self.start(body)
        self.emit(f"store i64 {value}, ptr %{node.target.id}")
        self.loops.append((step, end))
        self.block(node.body)
        self.loops.pop()
        self.start(step)
        value = self.value(f"load i64, ptr {counter}")
        self.emit(f"store i64 {self.value(f'add i64 {value}, 1')}, ptr {counter}")
        self.end(f"br label %{test}")
        self.start(end)

    def block(self, nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if self.open:
                self.statement(node)

    def assembly(self) -> str:
        self.module.allocas = []
        for name, kind in self.parameters:
            self.emit(f"store i64 {self.widen(f'%arg.{name}', kind)}, ptr %{name}")
        self.block(self.tree.body)
        if self.open:
            if self.result == "None":
                self.end("ret void")
            else:
                self.end("unreachable")
        slots = [f"  %{name} = alloca i64" for name in sorted(self.variables)] + self.module.allocas
        return "\n".join([self.header, *slots, *self.lines, "}"])


class _Module:
    """Collects functions and what they call."""

    def __init__(self) -> None:
        self.functions: dict[str, Callable[..., Any]] = {}
        self.public: set[str] = set()
        self.waiting: list[Callable[..., Any]] = []
        self.allocas: list[str] = []
        self.externals: dict[str, machine.External] = {}
        self.all_externals: list[machine.External] = []
        self.symbols: set[str] = set()

    def need(self, function: Callable[..., Any]) -> None:
        known = self.functions.setdefault(function.__name__, function)
        if known is function:
            if function not in self.waiting:
                self.waiting.append(function)
        else:
            raise CompileError(f"two functions are called {function.__name__}")

    def assembly(self) -> str:
        parts = [_DECLARATIONS]
        done = 0
        while done < len(self.waiting):  # compiling one may ask for more
            function = self.waiting[done]
            parts.append(_Function(self, function, public=function.__name__ in self.public).assembly())
            done += 1
        for external in self.externals.values():
            parameters = ", ".join(_WIDTH[kind] for kind in external.parameters)
            parts.append(f"declare {_WIDTH[external.result]} @{external.name}({parameters})")
        parts.extend(f"@{name} = external global i8" for name in self.symbols)
        return "\n".join(parts)


def _module(functions: Iterable[Callable[..., Any]]) -> _Module:
    module = _Module()
    for function in functions:
        module.public.add(function.__name__)
        module.need(function)
    return module


def assembly(*functions: Callable[..., Any]) -> str:
    """Return the LLVM assembly of `functions` and of everything that they call."""
    return _module(functions).assembly()


def compile_functions(*functions: Callable[..., Any]) -> dict[str, int]:
    """Compile functions of the small language; return their addresses by name. Together they cost one compilation.

    Where `compiler.use_cache` was called, the machine code is kept in a file and read the next time.
    """
    names = [function.__name__ for function in functions]
    key = compiler.cache_key(names, {inspect.getfile(function) for function in functions})
    code = compiler.cached_object(key)
    if code is None:
        module = _module(functions)
        code = compiler.object_code(module.assembly())
        if all(external.fixed for external in module.all_externals):
            compiler.keep_object(key, code)
    found = compiler.load_object(code, [_symbol(function) for function in functions])
    return {function.__name__: found[_symbol(function)] for function in functions}


def prototype(function: Callable[..., Any]) -> str:
    """Return the signature of a function of the small language, as `machine_unsafe.parse_signature` reads it."""
    kinds = list(function.__annotations__.values())
    return f"{kinds[-1]}({', '.join(kinds[:-1])})"


def bind(function: Callable[..., Any], address: int, *, holds_gil: bool = False) -> Callable[..., int]:
    """Return a Python callable for the compiled form of `function` at `address`."""
    return machine.function_at(address, prototype(function), holds_gil=holds_gil)
