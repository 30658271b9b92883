"""The demo's reader of a running server."""

from __future__ import annotations

import dataclasses

import pytest

from shirg.demo.reading import Choice
from shirg.demo.remote import RemoteReader
from shirg.errors import UserError
from shirg.serve.settings import Access
from tests.serve.running import running, settings, small_model
from tests.tiny import tiny_page


def test_both_answers_arrive_piece_by_piece():
    model = small_model()
    chosen = dataclasses.replace(settings(), access=Access("secret"))
    with running({"tiny": model}, chosen) as server:
        reader = RemoteReader(f"{server.url}/v1/", "secret")
        page = reader.encode(tiny_page(), "page.png")
        ours = list(reader.answer(page, "Who?", Choice(60)))
        lowres = list(reader.answer(page, "Who?", None))
        with pytest.raises(UserError, match="budget: got 401, must be a whole number from 1 to"):
            list(reader.answer(page, "Who?", Choice(401)))
        with pytest.raises(UserError, match="the bearer token is missing or wrong"):
            RemoteReader(f"{server.url}/v1", "wrong")
    assert ours[-1].text == model.answer(tiny_page(), "Who?", budget=60) and ours[-1].number == 12
    assert lowres[-1].text == model.answer(tiny_page(), "Who?", "lowres") and lowres[-1].path == "lowres"
    assert all(ours[-1].text.startswith(step.spans[0].text) for step in ours[:-1])
    with pytest.raises(UserError, match="no server answers"):
        RemoteReader(f"{server.url}/v1")
    with pytest.raises(UserError, match="must be an address"):
        RemoteReader("localhost:8000")
