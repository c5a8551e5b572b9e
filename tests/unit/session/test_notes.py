"""The function's messages: kept until there is a session, limited in rate, never on standard error."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from migproxy.abi.control import Note
from migproxy.errors import SessionLost
from migproxy.session.notes import BURST, KEPT, NoteHandler


@pytest.fixture
def logger() -> Iterator[tuple[logging.Logger, NoteHandler]]:
    log = logging.getLogger("test.notes")
    handler = NoteHandler()
    log.addHandler(handler)
    log.propagate = False
    yield log, handler
    log.removeHandler(handler)


def test_messages_wait_for_the_session(logger: tuple[logging.Logger, NoteHandler]) -> None:
    log, handler = logger
    log.warning("refused: %s", "cuX")
    log.info("too small a matter")
    sent: list[Note] = []
    handler.attach(sent.append)
    log.error("later")
    assert sent == [Note("warning", "refused: cuX"), Note("error", "later")]


def test_a_flood_is_cut(logger: tuple[logging.Logger, NoteHandler]) -> None:
    log, handler = logger
    sent: list[Note] = []
    handler.attach(sent.append)
    for _ in range(1000):
        log.warning("x" * 5000)
    assert BURST <= len(sent) <= BURST + 5
    assert all(len(note.text) <= 1000 for note in sent)


def test_what_waits_is_bounded_and_a_lost_broker_is_no_error(logger: tuple[logging.Logger, NoteHandler]) -> None:
    log, handler = logger
    for number in range(KEPT + 20):
        log.warning("%d", number)
    sent: list[Note] = []
    handler.attach(sent.append)
    assert len(sent) <= KEPT

    def lost(note: Note) -> None:
        raise SessionLost("gone")

    handler.attach(lost)
    handler._tokens = BURST
    log.warning("nobody hears this")
    log.warning("nor this")
