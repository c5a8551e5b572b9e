"""What a texture or surface object is to generated code: a record in memory, whose address is the object's handle.

The driver writes it (`textures`); the sampling functions of the PTX compiler (`ptx.texture_ir`) read it.
"""

from __future__ import annotations

import struct

#: ``CUarray_format`` → bytes of one channel.
CHANNEL_BYTES = {0x01: 1, 0x02: 2, 0x03: 4, 0x08: 1, 0x09: 2, 0x0A: 4, 0x10: 2, 0x20: 4}
U8, U16, U32, S8, S16, S32, F16, F32 = 0x01, 0x02, 0x03, 0x08, 0x09, 0x0A, 0x10, 0x20

#: Levels of a mipmapped array at most.
LEVELS = 18
WRAP, CLAMP, MIRROR, BORDER = range(4)
POINT, LINEAR = range(2)

#: The first word of a live texture, a live surface.
TEXTURE, SURFACE = 0x5445_5854, 0x5355_5246

#: Name → struct code, in order. ``value`` says how channels are converted: see the constants below.
_FIELDS = {
    "magic": "I", "format": "I", "channels": "I", "element": "I", "value": "I", "filter": "I", "mip_filter": "I",
    "normalized": "I", "mode_x": "I", "mode_y": "I", "mode_z": "I", "srgb": "I",
    "bias": "f", "low": "f", "high": "f", "layers": "I",
    "border_0": "I", "border_1": "I", "border_2": "I", "border_3": "I",
    "levels": "I", "linear": "I",
}  # fmt: skip
#: Channels come out as integers, as fractions of their range, or as they are (32-bit floats).
INTEGER, FRACTION, FLOATING = range(3)

_LEVEL_FIELDS = {"address": "Q", "plane": "Q", "pitch": "Q", "width": "I", "height": "I", "depth": "I", "spare": "I"}

HEAD = struct.Struct("<" + "".join(_FIELDS.values()))
LEVEL = struct.Struct("<" + "".join(_LEVEL_FIELDS.values()))
HEAD_SIZE = 96
SIZE = HEAD_SIZE + LEVELS * LEVEL.size
OFFSET = {name: 4 * number for number, name in enumerate(_FIELDS)}
LEVEL_OFFSET = {
    name: sum(struct.calcsize(code) for code in list(_LEVEL_FIELDS.values())[:number])
    for number, name in enumerate(_LEVEL_FIELDS)
}
FIELDS = tuple(_FIELDS)
