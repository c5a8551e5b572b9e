"""PTX's fundamental types and how registers of them are kept in LLVM."""

from __future__ import annotations

WIDTH: dict[str, int] = {
    "pred": 1,
    "b8": 8, "u8": 8, "s8": 8,
    "b16": 16, "u16": 16, "s16": 16, "f16": 16, "bf16": 16,
    "b32": 32, "u32": 32, "s32": 32, "f32": 32, "f16x2": 32, "bf16x2": 32, "u16x2": 32, "s16x2": 32, "tf32": 32,
    "b64": 64, "u64": 64, "s64": 64, "f64": 64, "f32x2": 64,
    "b128": 128,
}  # fmt: skip

_LLVM: dict[str, str] = {
    "pred": "i1",
    "f32": "float",
    "f64": "double",
    "f16": "half",
    "f16x2": "<2 x half>",
    "f32x2": "<2 x float>",
    "u16x2": "<2 x i16>",
    "s16x2": "<2 x i16>",
}


def is_type(name: str) -> bool:
    """Whether an opcode modifier is a type."""
    return name in WIDTH


def width(name: str) -> int:
    """Bits of a type."""
    return WIDTH[name]


def size(name: str) -> int:
    """Bytes of a type in memory."""
    return max(1, WIDTH[name] // 8)


#: both ways to write a type, looked up several times an instruction
_COMPUTED = {name: _LLVM.get(name, f"i{bits}") for name, bits in WIDTH.items()}
_KEPT = {name: _LLVM[name] if name in ("f32", "f64", "pred") else f"i{bits}" for name, bits in WIDTH.items()}


def llvm(name: str) -> str:
    """The LLVM type in which instructions compute this type (bf16 stays an integer: x86 has no such arithmetic)."""
    return _COMPUTED[name]


def storage(name: str) -> str:
    """The LLVM type in which a register of this declared type is kept."""
    return _KEPT[name]


def signed(name: str) -> bool:
    """Whether a type is a signed integer."""
    return name[0] == "s"


def floating(name: str) -> bool:
    """Whether a type is a floating type."""
    return name[0] == "f" or name.startswith("bf") or name == "tf32"
