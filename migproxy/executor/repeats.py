"""Library calls that were made before, carried out again without the interpreter.

Loops make the same call on the same addresses again and again. A call is looked up by its stream and its whole payload,
byte by byte; what is found was checked when Python carried it out, and is the C functions that the library's Python
binding would have called, with the arguments that it would have given. Whatever could change what the arguments mean
(memory unmapped, an object made or destroyed, a stream destroyed) empties the table: `RepeatTables` beside this file.

Written in the small language of ``arena/machine_unsafe.py``, like ``executor/pump.py``, which calls it. Precondition of
all functions: `table` is the address of a block made by `RepeatTables`, `record` one of its records, and `payload` is
the address of `length` bytes that only this process writes.
"""

from __future__ import annotations

from migproxy.abi import layout
from migproxy.arena.machine_unsafe import U64, Indirect, load8, load64, store64

#: Places of the hash table, a power of two; a quarter of them at most is taken.
PLACES = 4096
MOST_RECORDS = PLACES // 4
#: C functions that one call of the library's binding makes: it gives its handle the stream before the call itself.
MOST_CALLS = 2
MOST_WORDS = 24

# -- a call of a C function -------------------------------------------------------------------------------------------
CALL_FUNCTION = 0x00
CALL_STATUS = 0x08  # 1: what it returns is a status, 0 for success
CALL_DOUBLES = 0x10  # two words: the bits of its first two floating-point arguments
CALL_WORDS = 0x20  # MOST_WORDS words: its other arguments in order
CALL_SIZE = CALL_WORDS + 8 * MOST_WORDS

# -- a record ---------------------------------------------------------------------------------------------------------
HASH = 0x00
LENGTH = 0x08  # of the payload; NEVER: the record is not used again
STREAM = 0x10  # the stream as the command says it
REAL_STREAM = 0x18
ESTIMATES = 0x20  # address of the estimates of its work, 0 = nothing is marked
COUNT = 0x28  # how often it was repeated
CALLS = 0x30  # how many C functions it calls
PAYLOAD = 0x40
FIRST_CALL = PAYLOAD + layout.INLINE_PAYLOAD
RECORD_SIZE = FIRST_CALL + MOST_CALLS * CALL_SIZE
NEVER = (1 << 64) - 1

_MULTIPLIER = 0x9E3779B97F4A7C15

# More arguments than a function takes do no harm: the caller of the System V and AArch64 conventions makes the room.
call_function = Indirect(f"I32({', '.join(['U64'] * MOST_WORDS)}, F64, F64)")


def mix(state: U64, word: U64) -> U64:
    """Add a word to a hash."""
    mixed = (state ^ word) * _MULTIPLIER
    return mixed ^ mixed >> 29


def hash_of(payload: U64, length: U64, stream: U64) -> U64:
    """Return the hash of a command."""
    state = mix(length, stream)
    offset = 0
    while offset + 8 <= length:
        state = mix(state, load64(payload + offset))
        offset += 8
    while offset < length:
        state = mix(state, load8(payload + offset))
        offset += 1
    return state


def same(one: U64, other: U64, length: U64) -> U64:
    """Tell whether two ranges hold the same bytes."""
    offset = 0
    while offset + 8 <= length:
        if load64(one + offset) != load64(other + offset):
            return 0
        offset += 8
    while offset < length:
        if load8(one + offset) != load8(other + offset):
            return 0
        offset += 1
    return 1


def find(table: U64, payload: U64, length: U64, stream: U64) -> U64:
    """Return the record of a command, 0 if there is none."""
    wanted = hash_of(payload, length, stream)
    place = wanted % PLACES
    record = load64(table + 8 * place)
    while record:
        alike = load64(record + HASH) == wanted and load64(record + LENGTH) == length
        if alike and load64(record + STREAM) == stream and same(record + PAYLOAD, payload, length):
            return record
        place = (place + 1) % PLACES
        record = load64(table + 8 * place)
    return 0


def make_call(call: U64) -> U64:
    """Call a C function; returns its status, 0 if it has none."""
    words = call + CALL_WORDS
    status = call_function(
        load64(call + CALL_FUNCTION),
        load64(words),
        load64(words + 8),
        load64(words + 16),
        load64(words + 24),
        load64(words + 32),
        load64(words + 40),
        load64(words + 48),
        load64(words + 56),
        load64(words + 64),
        load64(words + 72),
        load64(words + 80),
        load64(words + 88),
        load64(words + 96),
        load64(words + 104),
        load64(words + 112),
        load64(words + 120),
        load64(words + 128),
        load64(words + 136),
        load64(words + 144),
        load64(words + 152),
        load64(words + 160),
        load64(words + 168),
        load64(words + 176),
        load64(words + 184),
        load64(call + CALL_DOUBLES),
        load64(call + CALL_DOUBLES + 8),
    )
    return status if load64(call + CALL_STATUS) else 0


def repeat(record: U64) -> U64:
    """Carry a call out again; returns the library's status. One that fails is not found again, so that Python tells
    the error."""
    index = 0
    call = record + FIRST_CALL
    while index < load64(record + CALLS):
        status = make_call(call)
        if status:
            store64(record + LENGTH, NEVER)
            return status
        call += CALL_SIZE
        index += 1
    store64(record + COUNT, load64(record + COUNT) + 1)
    return 0


FUNCTIONS_COMPILED = (hash_of, find, repeat)
