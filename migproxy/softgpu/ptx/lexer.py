"""PTX text to tokens.

A token is a plain string; a parallel list holds its line. Opcodes with their modifiers (``ld.param.u64``), directives
(``.reg``) and special registers (``%tid.x``) are one token each, because PTX never puts blanks inside them.
Debug lines that end at the line's end (``.loc``, ``.file``) and comments vanish here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from migproxy.errors import PtxError

#: the frequent ones first, which changes nothing: names, signs, numbers and strings start differently
_TOKENS = r"""
      [A-Za-z_$%.][\w$.%]*(?:::[\w$.%]*)*
    | [{}()\[\]<>,;:=@!|+\-~*/&^?]
    | 0[fF][0-9a-fA-F]{8} | 0[dD][0-9a-fA-F]{16}
    | \d+\.\d*(?:[eE][+-]?\d+)? | \d+[eE][+-]?\d+
    | 0[xX][0-9a-fA-F]+U? | 0[bB][01]+U? | \d+U?
    | "(?:[^"\\]|\\.)*"
"""
_BLANK = r"[ \t\r\f\v]"
_TOKEN = re.compile(
    rf"(?P<skip>{_BLANK}+|//[^\n]*|/\*.*?\*/|\.(?:loc|file)\b[^\n]*) | (?P<newline>\n) | {_TOKENS}",
    re.VERBOSE | re.DOTALL,
)
#: What stands in one line: a comment, tokens, and characters that start none.
_IN_LINE = re.compile(rf"{_BLANK}* (//.* | {_TOKENS} | [^ \t\r\f\v])", re.VERBOSE)
_DEBUG_LINES = frozenset({".loc", ".file"})


@dataclass(slots=True)
class Tokens:
    """The tokens of one PTX text with the line of each, and the text's lines for error messages."""

    items: list[str]
    lines: list[int]
    text: list[str]

    def error(self, message: str, line: int) -> PtxError:
        """An error that quotes the offending line."""
        return PtxError(message, line, self.text[line - 1] if 0 < line <= len(self.text) else "")


def tokenize(source: str) -> Tokens:
    """Split PTX text into tokens.

    Raises
    ------
    PtxError
        On a character that starts no token.
    """
    return _by_lines(source) or _by_tokens(source)


def _by_lines(source: str) -> Tokens | None:
    """Tokenize line by line, in a fifth of the time; None for text with what may span lines, or with an error."""
    if "/*" in source:
        return None
    items: list[str] = []
    lines: list[int] = []
    text = source.split("\n")
    find = _IN_LINE.findall
    for number, line in enumerate(text, 1):
        found = find(line)
        if not found:
            continue
        if found[0] in _DEBUG_LINES:
            continue
        if "//" in line and found[-1][:2] == "//":
            found.pop()
        items += found
        lines += [number] * len(found)
    known = set(items)
    if not known.isdisjoint(_DEBUG_LINES) or any(len(each) == 1 and _TOKEN.match(each) is None for each in known):
        return None
    if any(each[0] == "." and "." in each[1:] for each in known):
        return _apart(items, lines, text)
    return Tokens(items, lines, text)


def _apart(items: list[str], lines: list[int], text: list[str]) -> Tokens:
    """Take glued directives apart, as in ``.reg.b32``."""
    pieces: list[str] = []
    numbers: list[int] = []
    for token, line in zip(items, lines, strict=True):
        parts = ["." + part for part in token[1:].split(".")] if token[0] == "." else [token]
        pieces += parts
        numbers += [line] * len(parts)
    return Tokens(pieces, numbers, text)


def _by_tokens(source: str) -> Tokens:
    items: list[str] = []
    lines: list[int] = []
    line = 1
    position = 0
    end = len(source)
    match = _TOKEN.match
    while position < end:
        found = match(source, position)
        if found is None:
            text = source.split("\n")
            raise PtxError(f"unexpected character {source[position]!r}", line, text[line - 1])
        kind = found.lastgroup
        if kind == "newline":
            line += 1
        elif kind == "skip":
            if source.startswith("/*", position):
                line += source.count("\n", position, found.end())
        else:
            token = found.group()
            if token[0] == "." and "." in token[1:]:  # glued directives, as in ``.reg.b32``
                parts = ["." + part for part in token[1:].split(".")]
                items.extend(parts)
                lines.extend([line] * len(parts))
            else:
                items.append(token)
                lines.append(line)
        position = found.end()
    return Tokens(items, lines, source.split("\n"))
