"""Progress in a log: records done, rate and time left."""

from __future__ import annotations

import logging

import pytest

from shirg.data import workers


def test_log_tells_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    now = [100.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO)
    with workers.progress_bar("scanning images", 1000, 100) as advance:
        for _ in range(3):
            now[0] += 30.0
            advance(60)
    assert caplog.messages == ["scanning images: 220 of 1000, 2.0/s, 6 minutes left"]
