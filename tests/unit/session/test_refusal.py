"""A refused session: the broker is not asked again in every call."""

from __future__ import annotations

import pytest

from migproxy.errors import AdmissionError
from migproxy.session import opening, session


def test_a_fresh_refusal_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse() -> None:
        asked.append(1)
        raise AdmissionError("no room")

    monkeypatch.setattr(opening, "open_connection", refuse)
    monkeypatch.setattr(session, "_current", None)
    monkeypatch.setattr(session, "_refusal", None)
    for _ in range(3):
        with pytest.raises(AdmissionError, match="no room"):
            session.current()
    assert len(asked) == 1


def test_an_old_refusal_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse() -> None:
        asked.append(1)
        raise AdmissionError("no room")

    monkeypatch.setattr(opening, "open_connection", refuse)
    monkeypatch.setattr(session, "_current", None)
    monkeypatch.setattr(session, "_refusal", None)
    monkeypatch.setattr(session, "REFUSAL_SECONDS", -1.0)
    for _ in range(2):
        with pytest.raises(AdmissionError):
            session.current()
    assert len(asked) == 2
