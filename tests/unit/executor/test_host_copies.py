"""The words that copies within the arena are told by are used again once a copy is done."""

from __future__ import annotations

import ctypes

from migproxy.executor.host_copies_unsafe import HostCopies, copy_within


def test_places_are_used_again_also_past_one_that_stands_still() -> None:
    copies = HostCopies()
    source, target = ctypes.create_string_buffer(b"12345678"), ctypes.create_string_buffer(8)
    _, held = copies.place(0, 0, 0)
    places = set()
    for _ in range(20):
        target.value = b""
        _, place = copies.place(ctypes.addressof(target), ctypes.addressof(source), 8)
        copy_within(place)
        assert target.raw == b"12345678"
        places.add(place)
    assert held not in places
    assert len(places) == 1
    copies.place(0, 0, 0)
    copies.abandon()
    assert copies.place(0, 0, 0)[1] in places
