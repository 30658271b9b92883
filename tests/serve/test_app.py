"""The server as clients see it that others wrote: the openai package."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="shirg serve needs the extra `serve`")
openai = pytest.importorskip("openai", reason="a client of shirg serve")

from shirg import Lavida
from shirg.data.render import render_page
from tests.serve.running import data_uri, question, running

ASKED = "What is the Growth of Cookies?"


@pytest.fixture(scope="module")
def nano():
    return Lavida.from_pretrained("nano")


@pytest.fixture(scope="module")
def server(nano):
    with running({"nano": nano}) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def table():
    return render_page("table", seed=3, text_px=(12, 14), split="heldout").image


def test_the_answer_is_that_of_the_library(client, nano, table):
    answer = client.chat.completions.create(
        model="nano", messages=question(ASKED, data_uri(table)), extra_body={"budget": 512}
    )
    choice = answer.choices[0]
    assert choice.message.content == nano.answer(table, ASKED, budget=512) == "67%"
    assert choice.finish_reason == "stop" and answer.usage.prompt_tokens_details.image_tokens == 513
