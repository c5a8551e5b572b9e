"""What every message of the control sockets is."""

from __future__ import annotations

import msgspec

MAX_MESSAGE = 1 << 20


class Message(msgspec.Struct, tag=True, forbid_unknown_fields=True, frozen=True):
    """Base: a tagged struct, the class name is the tag."""
