"""Python functions made from docstring signatures behave as the compiled ones."""

from __future__ import annotations

import pytest
from migproxy_plugins.cupy import signatures

LINE = "memcpy(intptr_t dst, size_t size, int kind, unsigned int flags=cudaFlag, *, str order=u'C') -> intptr_t"


def make(line: str, namespace: dict[str, object] | None = None):
    return signatures.python_function(signatures.parse(line), lambda *args: args, namespace or {"cudaFlag": 7})


def test_arguments_defaults_and_result():
    signature = signatures.parse(LINE)
    assert [(a.name, a.ctype, a.default, a.keyword_only) for a in signature.arguments] == [
        ("dst", "intptr_t", None, False),
        ("size", "size_t", None, False),
        ("kind", "int", None, False),
        ("flags", "unsigned int", "cudaFlag", False),
        ("order", "str", "u'C'", True),
    ]
    assert signature.result == "intptr_t"


def test_result_that_is_a_tuple():
    assert signatures.parse("f(int a, tuple b) -> (size_t, size_t)").result == "(size_t, size_t)"


def test_untyped_and_templated_arguments():
    names = [a.name for a in signatures.parse("f(self, a, vector[ptrdiff_t] shape, uint32_t[::1] keys)").arguments]
    assert names == ["self", "a", "shape", "keys"]


@pytest.mark.parametrize("line", ["", "Container for things.", "f(int a", "f(int a) nonsense"])
def test_what_is_no_signature_is_refused(line):
    with pytest.raises(ValueError, match="not a signature"):
        signatures.parse(line)


def test_call_by_position_and_keyword():
    function = make(LINE)
    assert function(1, 2, 3) == (1, 2, 3, 7, "C")
    assert function(kind=3, size=2, dst=1, flags=0, order="F") == (1, 2, 3, 0, "F")
    with pytest.raises(TypeError):
        function(1, 2)
    with pytest.raises(TypeError):
        function(1, 2, 3, 4, "F")


@pytest.mark.parametrize(
    ("ctype", "value", "error"),
    [
        ("int", 1 << 31, OverflowError),
        ("int", -(1 << 31) - 1, OverflowError),
        ("size_t", -1, OverflowError),
        ("size_t", 1 << 64, OverflowError),
        ("intptr_t", 1.5, TypeError),
        ("str", b"x", TypeError),
        ("bytes", "x", TypeError),
    ],
)
def test_values_that_the_c_type_cannot_hold(ctype, value, error):
    with pytest.raises(error):
        make(f"f({ctype} a)")(value)


@pytest.mark.parametrize(("ctype", "value"), [("int", -(1 << 31)), ("size_t", (1 << 64) - 1), ("intptr_t", -1)])
def test_values_at_the_edge(ctype, value):
    assert make(f"f({ctype} a)")(value) == (value,)


def test_index_is_honoured():
    import numpy as np

    assert make("f(int a)")(np.int16(5)) == (5,)
    assert type(make("f(int a)")(np.int16(5))[0]) is int
