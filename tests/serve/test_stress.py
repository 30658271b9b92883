"""Many clients at once, beside one that sends garbage and one that leaves: no answer is lost or mixed up, memory stays flat."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random

import psutil
import pytest

pytest.importorskip("openai", reason="a client of shirg serve")

import openai
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shirg.errors import UserError
from shirg.serve.app import parsed
from shirg.serve.protocol import ChatBody, explained
from tests.serve.running import data_uri, question, running, small_model
from tests.serve.running import settings as limits_of
from tests.tiny import printable, tiny_page

CLIENTS = 16
GARBAGE = (
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"model": 1}',
    b"\xff\xfe",
    b'{"model": "tiny", "messages": [{}]}',
    b"[" * 10_000,
)


@pytest.mark.parametrize("number", [64, pytest.param(500, marks=pytest.mark.stress)])
def test_none_is_lost_and_none_mixed_up(number):
    model, chance = printable(small_model()), random.Random(0)
    pages = [tiny_page(text=f"page {place}") for place in range(6)]
    uris, texts = [data_uri(page) for page in pages], ["Who?", "What is the total?"]
    expected = {
        (uri, text): model.answer(page, text, budget=60)
        for page, uri in zip(pages, uris, strict=True)
        for text in texts
    }
    assert len(set(expected.values())) >= 6
    waiting = [(chance.choice(uris), chance.choice(texts)) for _ in range(number)]
    found, memory = [], []

    async def client(address):
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", timeout=600, max_retries=8) as api:
            while waiting:
                uri, text = waiting.pop()
                answer = await api.chat.completions.create(
                    model="tiny", messages=question(text, uri), extra_body={"budget": 60}
                )
                found.append(((uri, text), answer.choices[0].message.content))
                memory.append(psutil.Process().memory_info().rss)

    async def raw(address, body, read):
        host, port = address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        with contextlib.suppress(TimeoutError, ConnectionError):
            return await asyncio.wait_for(reader.read(12), read)
        writer.close()
        return b""

    async def garbage(address):
        while waiting:
            status = await raw(address, chance.choice(GARBAGE), 60)
            assert status in (b"HTTP/1.1 400", b"HTTP/1.1 429")
            await asyncio.sleep(0.05)

    async def leaving(address):
        while waiting:
            body = {"model": "tiny", "messages": question("Why?", chance.choice(uris)), "max_tokens": 500, "budget": 60}
            await raw(address, json.dumps({**body, "stream": chance.random() < 0.5}).encode(), chance.random() * 0.3)

    async def everybody(address):
        await asyncio.gather(*(client(address) for _ in range(CLIENTS)), garbage(address), leaving(address))

    with running({"tiny": model}, limits_of(queue=12, cache_bytes=4_000_000)) as server:
        asyncio.run(everybody(server.url))
        engine = server.service.engine
        assert engine.features.nbytes + engine.selections.nbytes <= 4_000_000
    assert len(found) == number
    assert [one for one in found if one[1] != expected[one[0]]] == []
    assert memory[-1] - memory[number // 4] < 60_000_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PARTS = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "image_url", "file"])}, optional={"text": JSON, "image_url": JSON}
    ),
)
MESSAGES = st.lists(
    JSON | st.fixed_dictionaries({"role": JSON | st.just("user"), "content": JSON | st.lists(PARTS, max_size=3)}),
    max_size=3,
)
FIELDS = {name: JSON for name in ChatBody.model_fields if name not in ("model", "messages")}
BODIES = st.fixed_dictionaries(
    {"model": JSON | st.just("tiny"), "messages": JSON | MESSAGES}, optional={**FIELDS, "colour": JSON}
)


@given(BODIES)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_body_is_a_request_or_a_mistake_in_one_line(body):
    try:
        request = parsed(json.dumps(body).encode())
        request.check()
    except UserError as error:
        assert "\n" not in str(error) and 0 < len(str(error)) < 1000


@given(st.binary(max_size=40))
def test_any_bytes(data):
    with pytest.raises(UserError):
        parsed(data)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": []}, "model: missing"),
        (
            {"model": "a", "messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text: ",
        ),
        (
            {
                "model": "a",
                "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"uri": "a"}}]}],
            },
            "messages[0].content[0].image_url.uri: no such field; did you mean url?",
        ),
        ({"model": "a", "messages": [{"role": "user", "content": "a"}], "stop": [1]}, "stop[0]: got 1"),
        ({"model": "a", "messages": [{"role": "user", "content": "a"}], "seed": "x"}, "seed: got 'x'"),
    ],
)
def test_the_place_of_a_mistake(body, words):
    with pytest.raises(ValidationError) as caught:
        ChatBody.model_validate_json(json.dumps(body))
    assert explained(caught.value.errors()).startswith(words)
