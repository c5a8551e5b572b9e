"""Both ways of taking PTX apart agree: by lines, which is quick, and by tokens, for what spans lines and for errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migproxy.errors import PtxError
from migproxy.softgpu.ptx import lexer

PTX = """//
.version 8.7
.target sm_80 // a comment
.visible .entry add(.param .u64 p) .maxntid 128, 1, 1 {
    .reg.b32 %r<4>; .loc 1 3 7
    .file 1 "a // b.cu"
    ld.param.u64 %rd1, [p+8]; @!%p1 bra L$1;
    mov.f32 %f1, 0f3F800000; mul.wide.u32 %rd2, %r1, 0x10U;
}
"""
PIECES = [
    *'\n\n \t"/*.;%{}[]#\\`ab01xfUE-+,:@$_',
    " ",
    ".loc ",
    ".file ",
    "//",
    "/*",
    "*/",
    '"a"',
    ".reg.b32",
    "::",
    "%r1",
]


def outcome(tokenize: Callable[[str], lexer.Tokens], text: str) -> object:
    try:
        return tokenize(text)
    except PtxError as error:
        return str(error)


def test_by_lines_is_what_is_used() -> None:
    plain = PTX.replace(" .loc 1 3 7", "")
    found = lexer._by_lines(plain)
    assert found == lexer._by_tokens(plain)
    assert found is not None
    assert found.items[:3] == [".version", "8.7", ".target"]
    assert [found.lines[found.items.index(each)] for each in (".b32", "bra")] == [5, 7]


@pytest.mark.parametrize(
    "text", ["a /* b\nc */ d", ".loc 1 2\nx", "x .loc 1 2\ny", '.file "\n"', "a\u00a0b", "", "//x"]
)
def test_what_spans_lines_and_what_is_wrong(text: str) -> None:
    assert outcome(lexer.tokenize, text) == outcome(lexer._by_tokens, text)


@given(st.lists(st.sampled_from([*PIECES, *PTX.splitlines(keepends=True)]), max_size=20))
def test_any_text(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert outcome(lexer.tokenize, text) == outcome(lexer._by_tokens, text)
