"""Tokens to `ast.Module`: directives, variables, functions, instructions; scopes are resolved here."""

from __future__ import annotations

import struct

from migproxy.softgpu.ptx import matrices, special, types
from migproxy.softgpu.ptx.ast import (
    Addr,
    FImm,
    Function,
    Imm,
    Instr,
    Label,
    Module,
    Not,
    Operand,
    Pair,
    Reg,
    Special,
    Sym,
    Texel,
    Variable,
    Vec,
)
from migproxy.softgpu.ptx.lexer import Tokens, tokenize

_LINKAGE = {".visible", ".extern", ".weak", ".common"}
_SPACES = {".global", ".const", ".shared", ".local", ".param"}
_NO_ARGUMENT = {".noreturn", ".explicitcluster", ".blocksareclusters"}
_SKIPPED = {".minnctapersm", ".maxnreg", ".maxnctapersm", ".maxclusterrank", ".reqnctapercluster", ".abi_preserve",
            ".abi_preserve_control", ".unified", ".pragma"}  # fmt: skip


class _Scope:
    """Names that a ``{ }`` block declares; inner blocks shadow outer ones."""

    __slots__ = ("labels", "names", "parent", "prefixes", "registers")

    def __init__(self, parent: _Scope | None) -> None:
        self.parent = parent
        self.names: dict[str, str] = {}
        self.prefixes: dict[str, tuple[str, int, str]] = {}
        self.labels: dict[str, str] = {}
        #: what register names were found to mean here, until something is declared
        self.registers: dict[str, Reg] = {}


class Parser:
    """One pass over the tokens of a PTX text."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        last = tokens.lines[-1] if tokens.lines else 1
        self.items = [*tokens.items, "", ""]
        self.lines = [*tokens.lines, last, last]
        self.at = 0
        self.module = Module(text=tokens.text)
        self.function: Function | None = None
        self.scope = _Scope(None)
        self.serial = 0
        self.branches: list[tuple[Instr, _Scope]] = []
        #: opcodes taken apart
        self.opcodes: dict[str, tuple[str, tuple[str, ...]]] = {}

    # -- small steps ----------------------------------------------------------------------------------------------

    def fail(self, message: str, at: int | None = None) -> Exception:
        return self.tokens.error(message, self.lines[self.at if at is None else at])

    def peek(self) -> str:
        return self.items[self.at]

    def next(self) -> str:
        token = self.items[self.at]
        self.at += 1
        return token

    def accept(self, token: str) -> bool:
        if self.items[self.at] == token:
            self.at += 1
            return True
        return False

    def expect(self, token: str) -> None:
        if self.items[self.at] != token:
            raise self.fail(f"expected {token!r}, found {self.items[self.at] or 'the end'!r}")
        self.at += 1

    def integer(self) -> int:
        """An integer constant expression of literals (``-``, ``~``, ``+``, ``*``; parentheses)."""
        value = self._int_term()
        while self.peek() in ("+", "-", "*"):
            op = self.next()
            term = self._int_term()
            value = value + term if op == "+" else value - term if op == "-" else value * term
        return value

    def _int_term(self) -> int:
        token = self.next()
        if token == "-":
            return -self._int_term()
        if token == "~":
            return ~self._int_term()
        if token == "+":
            return self._int_term()
        if token == "(":
            value = self.integer()
            self.expect(")")
            return value
        if token[:1].isdigit() and token[:2].lower() not in ("0f", "0d") and "." not in token:
            return _int(token)
        raise self.fail(f"expected an integer, found {token!r}", self.at - 1)

    # -- module level ---------------------------------------------------------------------------------------------

    def parse(self) -> Module:
        while self.peek():
            self._module_item()
        return self.module

    def _module_item(self) -> None:
        token = self.peek()
        if token == ".version":
            self.at += 1
            self.module.version = self.next()
        elif token == ".target":
            self.at += 1
            self.module.target = self.next()
            while self.accept(","):
                self.next()
        elif token == ".address_size":
            self.at += 1
            if self.next() != "64":
                raise self.fail("only .address_size 64 is supported", self.at - 1)
        elif token == ".section":
            self._skip_section()
        elif token == ".pragma":
            self._skip_statement()
        elif token == ".alias":
            raise self.fail("not supported: .alias (function aliases)")
        elif token == ";":
            self.at += 1
        else:
            self._declaration()

    def _skip_statement(self) -> None:
        while self.next() != ";":
            if not self.peek():
                raise self.fail("missing ';'")

    def _skip_section(self) -> None:
        while self.next() != "{":
            if not self.peek():
                raise self.fail("missing '{' after .section")
        depth = 1
        while depth:
            token = self.next()
            if not token:
                raise self.fail("missing '}' after .section")
            depth += (token == "{") - (token == "}")

    def _declaration(self) -> None:
        linkage = ""
        while self.peek() in _LINKAGE:
            linkage = self.next()[1:]
        token = self.peek()
        if token in (".entry", ".func"):
            self._function(linkage)
        elif token in _SPACES:
            variable = self._variable(linkage)
            self.expect(";")
            known = self.module.variables.get(variable.name)
            if known is None or known.extern:
                self.module.variables[variable.name] = variable
        else:
            raise self.fail(f"unknown directive or statement {token!r}")

    # -- variables ------------------------------------------------------------------------------------------------

    def _variable(self, linkage: str) -> Variable:
        """A variable without its terminator; also parameters."""
        line = self.lines[self.at]
        space = self.next()[1:].split("::")[0]
        align = 0
        kind = ""
        vector = 1
        while self.peek().startswith("."):
            token = self.next()
            if token == ".align":
                align = self.integer()
            elif token == ".ptr":
                while self.peek() in (".global", ".shared", ".const", ".local", ".param", ".generic", ".align"):
                    if self.next() == ".align":
                        self.integer()
            elif token in (".v2", ".v4", ".v8"):
                vector = int(token[2:])
            elif token == ".attribute":
                self.expect("(")
                while not self.accept(")"):
                    if self.next() == ".unified":
                        raise self.fail("not supported: .attribute(.unified)", self.at - 1)
            elif types.is_type(token[1:]):
                kind = token[1:]
            elif token in (".texref", ".samplerref", ".surfref"):
                raise self.fail(f"not supported: {token} (texture and surface references)", self.at - 1)
            else:
                raise self.fail(f"unknown variable attribute {token!r}", self.at - 1)
        if not kind:
            raise self.fail("variable without a type")
        name = self.next()
        element = types.size(kind)
        count = vector
        unsized = False
        if self.peek() == "<":  # parameterised variable names are only for registers
            raise self.fail("parameterised names are for registers only")
        while self.accept("["):
            if self.accept("]"):
                unsized = True
            else:
                count *= self.integer()
                self.expect("]")
        variable = Variable(name, space, kind, count * element, max(align, element * vector if vector > 1 else element),
                            line, element=element, extern=linkage == "extern", linkage=linkage)  # fmt: skip
        if align:
            variable.align = align
        if self.accept("="):
            variable.init = []
            self._initializer(variable.init, kind)
            if unsized:
                variable.size = len(variable.init) * element
                unsized = False
        if unsized:
            variable.unsized = True
            variable.size = 0
        return variable

    def _initializer(self, out: list[int | tuple[str, int, int]], kind: str) -> None:
        if self.accept("{"):
            while not self.accept("}"):
                self._initializer(out, kind)
                self.accept(",")
            return
        token = self.peek()
        if types.floating(kind):
            out.append(self._float_bits(types.width(kind)))
        elif token == '"':
            raise self.fail("string initialisers are not PTX")
        elif token[:1].isdigit() or token in ("-", "~", "+", "("):
            value = self.integer()
            if self.accept("("):  # 0xFF00(symbol): one byte of an address
                name, offset = self._symbol_expression()
                self.expect(")")
                out.append((name, offset, max(0, (value & -value).bit_length() - 1)))
            else:
                out.append(value)
        else:
            name, offset = self._symbol_expression()
            out.append((name, offset, 0))

    def _symbol_expression(self) -> tuple[str, int]:
        name = self.next()
        if name == "generic":
            self.expect("(")
            name, offset = self._symbol_expression()
            self.expect(")")
        else:
            offset = 0
        while self.peek() in ("+", "-"):
            sign = 1 if self.next() == "+" else -1
            offset += sign * self._int_term()
        return name, offset

    def _float_bits(self, width: int) -> int:
        negative = self.accept("-")
        token = self.next()
        operand = _number(token)
        if isinstance(operand, FImm):
            value = _to_float(operand)
        elif isinstance(operand, Imm):
            value = float(operand.value)
        else:
            raise self.fail(f"expected a number, found {token!r}", self.at - 1)
        if negative:
            value = -value
        if width == 64:
            return int.from_bytes(struct.pack("<d", value), "little")
        if width == 32:
            if isinstance(operand, FImm) and operand.width == 32:
                return operand.bits ^ (negative << 31)
            return int.from_bytes(struct.pack("<f", value), "little")
        raise self.fail("initialisers of this floating type are integers", self.at - 1)

    # -- functions ------------------------------------------------------------------------------------------------

    def _function(self, linkage: str) -> None:
        line = self.lines[self.at]
        entry = self.next() == ".entry"
        while self.peek() in (".attribute",):
            self.next()
            self.expect("(")
            while not self.accept(")"):
                self.next()
        rets = self._parameters() if self.peek() == "(" else []
        function = Function(self.next(), entry, line, rets=rets, linkage=linkage)
        if self.peek() == "(":
            function.params = self._parameters()
        while self.peek() not in ("{", ";"):
            token = self.next()
            if token in (".maxntid", ".reqntid"):
                dims = [self.integer()]
                while self.accept(","):
                    dims.append(self.integer())
                while len(dims) < 3:
                    dims.append(1)
                setattr(function, token[1:], (dims[0], dims[1], dims[2]))
            elif token in _NO_ARGUMENT:
                function.noreturn |= token == ".noreturn"
            elif token in _SKIPPED:
                while self.peek() not in ("{", ";") and not self.peek().startswith("."):
                    self.next()
                self.accept(";")
                if token == ".pragma":
                    continue
            else:
                raise self.fail(f"unknown function directive {token!r}", self.at - 1)
        known = self.module.functions.get(function.name)
        if self.accept(";"):
            if known is None:
                self.module.functions[function.name] = function
            return
        self.expect("{")
        if known is not None and known.body is not None:
            raise self.tokens.error(f"function {function.name} is defined twice", line)
        self.function = function
        self._body(function)
        self.function = None
        self.module.functions[function.name] = function

    def _parameters(self) -> list[Variable]:
        self.expect("(")
        out: list[Variable] = []
        while not self.accept(")"):
            if self.peek() == ".reg":
                self.at += 1
                kind = self.next()[1:]
                name = self.next()
                size = types.size(kind)
                out.append(Variable(name, "param", kind, size, size, self.lines[self.at - 1], register=True))
            elif self.peek() == ".param":
                out.append(self._variable(""))
            else:
                raise self.fail(f"expected a parameter, found {self.peek()!r}")
            if not self.accept(","):
                self.expect(")")
                break
        return out

    def _body(self, function: Function) -> None:
        body: list[Instr | Label] = []
        function.body = body
        self.scope = _Scope(None)
        self.branches = []
        for parameter in (*function.rets, *function.params):
            if parameter.register:
                function.regs[parameter.name] = parameter.type
                self.scope.names[parameter.name] = parameter.name
        depth = 1
        while depth:
            token = self.peek()
            if token == "{":
                self.at += 1
                depth += 1
                self.scope = _Scope(self.scope)
            elif token == "}":
                self.at += 1
                depth -= 1
                if self.scope.parent is not None:
                    self.scope = self.scope.parent
            elif not token:
                raise self.fail(f"missing '}}' of {function.name}")
            elif token == ";":
                self.at += 1
            elif token[0] == ".":
                self._body_directive(function)
            elif self.items[self.at + 1] == ":":
                self._label(function, body)
            else:
                body.append(self._instruction())
        for instr, scope in self.branches:
            self._resolve_branch(function, instr, scope)

    def _label(self, function: Function, body: list[Instr | Label]) -> None:
        line = self.lines[self.at]
        name = self.next()
        self.at += 1
        following = self.peek()
        if following == ".branchtargets":
            self.at += 1
            targets = [self.next()]
            while self.accept(","):
                targets.append(self.next())
            self.expect(";")
            holder = Instr("branchtargets", (), [], line, targets=tuple(targets))
            self.branches.append((holder, self.scope))
            self.tables[name] = holder
        elif following == ".callprototype":
            self.at += 1
            rets = self._parameters() if self.peek() == "(" else []
            self.next()
            params = self._parameters() if self.peek() == "(" else []
            while not self.accept(";"):
                self.next()
            function.protos[name] = (rets, params)
        elif following == ".calltargets":
            self._skip_statement()
        else:
            unique = name
            if any(name in scope.labels for scope in _chain(self.scope)) or name in self.all_labels:
                self.serial += 1
                unique = f"{name}.{self.serial}"
            self.all_labels.add(unique)
            self.scope.labels[name] = unique
            body.append(Label(unique, line))

    @property
    def tables(self) -> dict[str, Instr]:
        assert self.function is not None
        return self._tables.setdefault(self.function.name, {})

    @property
    def all_labels(self) -> set[str]:
        assert self.function is not None
        return self._labels.setdefault(self.function.name, set())

    _tables: dict[str, dict[str, Instr]]
    _labels: dict[str, set[str]]

    def _body_directive(self, function: Function) -> None:
        token = self.peek()
        if token == ".reg":
            self.at += 1
            self._registers(function)
        elif token == ".pragma":
            self._skip_statement()
        elif token in _SPACES or token in _LINKAGE:
            linkage = ""
            while self.peek() in _LINKAGE:
                linkage = self.next()[1:]
            variable = self._variable(linkage)
            self.expect(";")
            name = variable.name
            if name in function.variables or name in self.module.variables:
                self.serial += 1
                variable.name = f"{name}.{self.serial}"
            self.scope.names[name] = variable.name
            self.scope.registers.clear()
            function.variables[variable.name] = variable
        elif token == ".section":
            self._skip_section()
        else:
            raise self.fail(f"unknown directive {token!r}")

    def _registers(self, function: Function) -> None:
        self.scope.registers.clear()
        kind = self.next()[1:]
        vector = 0
        if kind in ("v2", "v4"):
            vector = int(kind[1:])
            kind = self.next()[1:]
        if not types.is_type(kind):
            raise self.fail(f"unknown register type .{kind}", self.at - 1)
        while True:
            name = self.next()
            if vector:
                for component in "xyzw"[:vector]:
                    self._register(function, f"{name}.{component}", kind)
                self.scope.names[name] = name
            elif self.accept("<"):
                count = self.integer()
                self.expect(">")
                tag = ""
                if any(name in scope.prefixes for scope in _chain(self.scope)) or name in self.all_prefixes:
                    self.serial += 1
                    tag = f".{self.serial}"
                self.all_prefixes.add(name)
                self.scope.prefixes[name] = (kind, count, tag)
            else:
                self._register(function, name, kind)
            if not self.accept(","):
                break
        self.expect(";")

    @property
    def all_prefixes(self) -> set[str]:
        assert self.function is not None
        return self._prefixes.setdefault(self.function.name, set())

    _prefixes: dict[str, set[str]]

    def _register(self, function: Function, name: str, kind: str) -> None:
        unique = name
        if name in function.regs:
            self.serial += 1
            unique = f"{name}.{self.serial}"
        function.regs[unique] = kind
        self.scope.names[name] = unique

    # -- instructions ---------------------------------------------------------------------------------------------

    def _instruction(self) -> Instr:
        pred: Reg | None = None
        negated = False
        line = self.lines[self.at]
        if self.accept("@"):
            negated = self.accept("!")
            operand = self._name(self.next())
            if not isinstance(operand, Reg):
                raise self.fail("a guard is a predicate register", self.at - 1)
            pred = operand
        opcode = self.next()
        parts = self.opcodes.get(opcode)
        if parts is None:
            name, *mods = opcode.split(".")
            parts = self.opcodes[opcode] = name, tuple(mods)
        name = parts[0]
        instr = Instr(name, parts[1], [], line, pred, negated)
        if name == "call":
            self._call(instr)
        elif not self.accept(";"):
            self._operands(instr.ops)
        if name in ("bra", "brx"):
            self.branches.append((instr, self.scope))
        return instr

    def _operands(self, out: list[Operand]) -> None:
        """The operands up to the semicolon; nearly all are single tokens, most of them registers seen before."""
        items, known = self.items, self.scope.registers
        while True:
            at = self.at
            token, after = items[at], items[at + 1]
            if after == "," or after == ";":
                self.at = at + 1
                operand = known.get(token) or (_number(token) if token[0].isdigit() else self._name(token))
            else:
                operand = self._operand()
                after = items[self.at]
            out.append(operand)
            if after != ",":
                self.expect(";")
                return
            self.at += 1

    def _call(self, instr: Instr) -> None:
        parts: list[Operand | tuple[Operand, ...]] = []
        while not self.accept(";"):
            if self.accept("("):
                group: list[Operand] = []
                while not self.accept(")"):
                    group.append(self._operand())
                    self.accept(",")
                parts.append(tuple(group))
            else:
                parts.append(self._operand())
            self.accept(",")
        if parts and isinstance(parts[0], tuple):
            instr.rets = parts.pop(0)  # type: ignore[assignment]
        if not parts or isinstance(parts[0], tuple):
            raise self.fail("call without a function", self.at - 1)
        instr.callee = parts.pop(0)  # type: ignore[assignment]
        if parts and isinstance(parts[0], tuple):
            instr.args = parts.pop(0)
        if parts and isinstance(parts[0], Sym):
            instr.proto = parts[0].name

    def _operand(self) -> Operand:
        operand = self._simple()
        if self.accept("|"):
            return Pair(operand, self._simple())
        return operand

    def _simple(self) -> Operand:
        token = self.next()
        first = token[:1]
        if first == "[":
            address = self._address()
            if self.accept(","):
                return self._texel(address)
            self.expect("]")
            return address
        if first == "{":
            items: list[Operand] = []
            while not self.accept("}"):
                items.append(self._simple())
                self.accept(",")
            return Vec(tuple(items))
        if first == "!":
            operand = self._name(self.next())
            if not isinstance(operand, Reg):
                raise self.fail("expected a predicate register after '!'", self.at - 1)
            return Not(operand)
        if first == "-" or first == "~" or first == "(" or first == "+":
            if first == "-" and (self.peek()[:2].lower() in ("0f", "0d") or "." in self.peek()):
                operand = _number(self.next())
                assert isinstance(operand, FImm)
                return FImm(operand.bits ^ (1 << (operand.width - 1)), operand.width)
            self.at -= 1
            return Imm(self.integer())
        if first.isdigit():
            number = _number(token)
            if isinstance(number, Imm) and self.peek() in ("+", "-", "*"):
                self.at -= 1
                return Imm(self.integer())
            return number
        operand = self._name(token)
        if isinstance(operand, Sym) and self.peek() in ("+", "-"):
            sign = 1 if self.next() == "+" else -1
            return Sym(operand.name, sign * self._int_term())
        return operand

    def _texel(self, address: Addr) -> Texel:
        parts = [self._simple()]
        while self.accept(","):
            parts.append(self._simple())
        self.expect("]")
        if not isinstance(parts[-1], Vec):
            parts.append(Vec((parts.pop(),)))
        coordinates = parts.pop()
        assert isinstance(coordinates, Vec)
        if address.offset or len(parts) > 1:
            raise self.fail("not an object with coordinates", self.at - 1)
        return Texel(address.base, coordinates, parts[0] if parts else None)

    def _address(self) -> Addr:
        token = self.next()
        base: Operand = Imm(_int(token)) if token[:1].isdigit() else self._name(token)
        offset = 0
        while self.peek() in ("+", "-"):
            sign = 1 if self.next() == "+" else -1
            offset += sign * self._int_term()
        if not isinstance(base, Reg | Sym | Imm):
            raise self.fail(f"not an address: {token!r}", self.at - 1)
        return Addr(base, offset)

    def _name(self, token: str) -> Operand:
        """What an identifier means in the present scope."""
        if token == "_":
            return None
        here = self.scope
        known = here.registers.get(token)
        if known is not None:
            return known
        function = self.function
        assert function is not None
        scope: _Scope | None = here
        prefix = token.rstrip("0123456789")
        number = token[len(prefix) :]
        while scope is not None:
            unique = scope.names.get(token)
            if unique is not None:
                if unique not in function.regs:
                    return Sym(unique)
                register = here.registers[token] = Reg(unique)
                return register
            if number:
                found = scope.prefixes.get(prefix)
                if found is not None and int(number) < found[1]:
                    unique = token + found[2]
                    function.regs[unique] = found[0]
                    register = here.registers[token] = Reg(unique)
                    return register
            scope = scope.parent
        if token[0] == "%" or token == "WARP_SZ":
            if token == "WARP_SZ":
                return Imm(32)
            if token in special.NAMES:
                return Special(token)
            raise self.fail(f"unknown register {token}", self.at - 1)
        if "." in token and token.rsplit(".", 1)[0] in function.regs:
            raise self.fail(f"unknown vector component {token}", self.at - 1)
        return Sym(token)

    def _resolve_branch(self, function: Function, instr: Instr, scope: _Scope) -> None:
        def find(name: str) -> str:
            for level in _chain(scope):
                if name in level.labels:
                    return level.labels[name]
            raise self.tokens.error(f"no such label {name}", instr.line)

        if instr.name == "branchtargets":
            instr.targets = tuple(find(name) for name in instr.targets)
        elif instr.name == "bra":
            target = instr.ops[0]
            if not isinstance(target, Sym):
                raise self.tokens.error("bra needs a label", instr.line)
            instr.targets = (find(target.name),)
        else:
            table = instr.ops[1] if len(instr.ops) > 1 else None
            if not isinstance(table, Sym) or table.name not in self._tables.get(function.name, {}):
                raise self.tokens.error("brx.idx needs a .branchtargets list", instr.line)
            holder = self._tables[function.name][table.name]
            if holder.targets and holder.targets[0] not in self._labels[function.name]:
                self._resolve_branch(function, holder, scope)
            instr.targets = holder.targets


def _chain(scope: _Scope | None) -> list[_Scope]:
    out = []
    while scope is not None:
        out.append(scope)
        scope = scope.parent
    return out


def _int(token: str) -> int:
    token = token.rstrip("U")
    if len(token) > 1 and token[0] == "0" and token[1] in "01234567":
        return int(token, 8)
    return int(token, 0)


def _number(token: str) -> Imm | FImm:
    prefix = token[:2].lower()
    if prefix == "0f" and len(token) == 10:
        return FImm(int(token[2:], 16), 32)
    if prefix == "0d" and len(token) == 18:
        return FImm(int(token[2:], 16), 64)
    if ("." in token or "e" in token.lower()) and prefix != "0x":
        return FImm(int.from_bytes(struct.pack("<d", float(token)), "little"), 64)
    return Imm(_int(token))


def _to_float(operand: FImm) -> float:
    data = operand.bits.to_bytes(operand.width // 8, "little")
    value: float = struct.unpack("<f" if operand.width == 32 else "<d", data)[0]
    return value


def parse(source: str) -> Module:
    """Parse one PTX text.

    Raises
    ------
    PtxError
        With the line and its text, for anything that is not understood.
    """
    parser = Parser(tokenize(matrices.expand(source)))
    parser._tables = {}
    parser._labels = {}
    parser._prefixes = {}
    return parser.parse()
