"""PTX text to tokens.

A token is a plain string; a parallel list holds its line. Opcodes with their modifiers (``ld.param.u64``), directives
(``.reg``) and special registers (``%tid.x``) are one token each, because PTX never puts blanks inside them.
Debug lines that end at the line's end (``.loc``, ``.file``) and comments vanish here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from migproxy.errors import PtxError

_TOKEN = re.compile(
    r"""
      (?P<skip>[ \t\r\f\v]+|//[^\n]*|/\*.*?\*/|\.(?:loc|file)\b[^\n]*)
    | (?P<newline>\n)
    | "(?:[^"\\]|\\.)*"
    | 0[fF][0-9a-fA-F]{8} | 0[dD][0-9a-fA-F]{16}
    | \d+\.\d*(?:[eE][+-]?\d+)? | \d+[eE][+-]?\d+
    | 0[xX][0-9a-fA-F]+U? | 0[bB][01]+U? | \d+U?
    | [A-Za-z_$%.](?:[\w$.%]|::)*
    | [{}()\[\]<>,;:=@!|+\-~*/&^?]
    """,
    re.VERBOSE | re.DOTALL,
)


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
