"""Progress in a log: how far, how fast, how long."""

from __future__ import annotations

import logging

import pytest

from shirg.data import progress


def test_log_tells_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO)
    with progress.bar("looking at images", 1000, 100) as advance:
        for _ in range(3):
            now[0] += 30.0
            advance(60)
    assert caplog.messages == ["looking at images: 220 of 1000, 2.0/s, 6 minutes left"]
