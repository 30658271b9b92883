"""The server as clients see it that others wrote: the openai package."""

from __future__ import annotations

import asyncio
import concurrent.futures
import http.client
import json
import socket
import time

import pytest

pytest.importorskip("openai", reason="a client of shirg serve")

import openai
import torch

from shirg import Lavida
from shirg.data.render import render_page
from shirg.lavida.loading import with_own_projector
from shirg.serve.settings import Access, ServerSettings
from tests.serve.running import data_uri, question, running, settings, small_model
from tests.tiny import printable, tiny_page

ASKED = "What is the Growth of Cookies?"


def client_of(server, **options):
    return openai.OpenAI(base_url=f"{server.url}/v1", **{"api_key": "none", "max_retries": 0, **options})


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def server(model):
    with running(
        {"tiny": model}, settings(prompt_tokens=600, images=2, turns=6, body_bytes=2**20, pixels=10**6)
    ) as one:
        yield one


@pytest.fixture(scope="module")
def client(server):
    return client_of(server)


@pytest.fixture
def ask(client):
    def asked(text="What is the total?", page=None, **fields):
        page = tiny_page() if page is None else page
        fields = {"model": "tiny", "messages": question(text, data_uri(page)), **fields}
        fields["extra_body"] = {"budget": 60, **fields.get("extra_body", {})}
        return client.chat.completions.create(**fields)

    return asked


def test_a_page_is_read_as_by_the_library():
    nano = Lavida.from_pretrained("nano")
    table = render_page("table", seed=3, text_px=(12, 14), split="heldout").image
    with running({"nano": nano}) as server:
        answer = client_of(server).chat.completions.create(
            model="nano", messages=question(ASKED, data_uri(table)), max_tokens=256, extra_body={"budget": 512}
        )
    choice, used = answer.choices[0], answer.usage
    assert choice.message.content == nano.answer(table, ASKED, budget=512) == "67%"
    assert choice.finish_reason == "stop" and used.prompt_tokens_details.image_tokens == 513
    assert used.prompt_tokens == 513 + len(nano.prompt_ids(ASKED)) - 1 and used.completion_tokens < 16


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"path": "lowres", "budget": None},
        {"path": "multiview", "budget": 90},
        {"budget": "auto"},
        {"selector": "uniform"},
        {"steps": 4},
        {"threshold": 0.3},
        {"draft": "Total: [mask:3] USD [mask]"},
        {"draft": "The"},
    ],
    ids=str,
)
def test_every_option_is_the_library_s(ask, model, fields):
    given = {"budget": 60, **fields}
    answer = ask(extra_body=given).choices[0].message.content
    keywords = {"mode": given.get("path", "shirg"), "draft": given.get("draft")}
    keywords |= {"budget": given["budget"]} if given["budget"] else {}
    if "selector" in given:
        gate = model.vision.gate
        keywords["vision"] = _replaced(model.vision, gate=_replaced(gate, selector="uniform"))
    if "threshold" in given:
        keywords["threshold"] = given["threshold"]
    if "steps" in given:
        keywords["step_per_block"] = 4
    assert answer == model.answer(tiny_page(), "What is the total?", **keywords)


def _replaced(settings, **changes):
    import dataclasses

    return dataclasses.replace(settings, **changes)


@pytest.mark.parametrize("max_tokens", [3, 12, 30])
@pytest.mark.parametrize("text", ["What is the total?", "Who?", "Why not?"])
def test_streamed_pieces_are_the_answer(ask, text, max_tokens):
    whole = ask(text, max_tokens=max_tokens)
    chunks = list(ask(text, max_tokens=max_tokens, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert whole.usage.completion_tokens <= max_tokens


def test_a_stop_string_ends_the_answer(ask):
    whole = ask("Which one?").choices[0].message.content
    stop = whole[4:6]
    cut = ask("Which one?", stop=[stop, "nowhere in it"])
    assert cut.choices[0].message.content == whole.split(stop)[0] and cut.choices[0].finish_reason == "stop"
    streamed = ask("Which one?", stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == whole.split(stop)[0]


def test_a_seed_repeats_what_a_temperature_draws(ask):
    drawn = [ask(temperature=2.0, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_many_at_once_have_their_own_answers(server, model):
    texts = [f"What is in row {number}?" for number in range(4)]
    pages = [tiny_page(text=f"page {number}") for number in range(3)]

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            asked = (
                client.chat.completions.create(
                    model="tiny", messages=question(text, data_uri(page)), extra_body={"budget": 20 + 30 * place}
                )
                for place, page in enumerate(pages)
                for text in texts
            )
            return await asyncio.gather(*asked)

    found = [answer.choices[0].message.content for answer in asyncio.run(all_of_them())]
    expected = [model.answer(page, text, budget=20 + 30 * place) for place, page in enumerate(pages) for text in texts]
    assert found == expected


def test_adapters_are_chosen_by_name():
    """Another projector on the same tower and language model, in the same batches."""
    model = printable(small_model())
    twin = with_own_projector(model)
    with torch.no_grad():
        for parameter in twin.mm_projector.parameters():
            parameter.mul_(-3)
    with running({"tiny": model, "twin": twin}) as server, concurrent.futures.ThreadPoolExecutor(6) as pool:
        client, messages = client_of(server), question("Who?", data_uri(tiny_page()))
        assert [one.id for one in client.models.list()] == ["tiny", "twin"]
        names = ["tiny", "twin"] * 3
        found = pool.map(
            lambda name: client.chat.completions.create(model=name, messages=messages, extra_body={"budget": 60}), names
        )
        texts = [answer.choices[0].message.content for answer in found]
    ours, theirs = (one.answer(tiny_page(), "Who?", budget=60) for one in (model, twin))
    assert texts == [ours, theirs] * 3 and ours != theirs


def test_a_conversation(client, model):
    uri = data_uri(tiny_page())
    turns = [*question("What is the total?", uri), {"role": "assistant", "content": "12.50"}]
    answer = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "system", "content": "Be brief."}, *turns, {"role": "user", "content": "Why?"}],
        extra_body={"budget": 60},
    )
    assert isinstance(answer.choices[0].message.content, str)
    assert answer.usage.prompt_tokens_details.image_tokens == 61


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"model": "gpt-4o"}, 404, "model: there is no 'gpt-4o'; there are tiny"),
        ({"messages": []}, 400, "messages: got"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "messages[0]: the text is empty"),
        ({"messages": [{"role": "tool", "content": "a"}]}, 400, "messages[0].role: got 'tool'"),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content: got 3"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "messages: got assistant, must be user"),
        ({"messages": [{"role": "user", "content": "a <image> b"}]}, 400, "the text contains <image>"),
        ({"messages": [{"role": "user", "content": "a " * 5000}]}, 400, "at most 600 are taken"),
        ({"messages": [{"role": "user", "content": "a", "colour": 1}]}, 400, "messages[0].colour: no such field"),
        ({"messages": question("a", "data:image/png;base64,AAAA")}, 400, "messages[0].image_url[0]: is no PNG"),
        ({"messages": question("a", "http://example.com/a.png")}, 400, "this server fetches none"),
        ({"messages": question("a", *["data:,"] * 3)}, 400, "got 3 images, at most 2"),
        ({"messages": [{"role": "user", "content": "a"}] * 7}, 400, "got 7 turns, at most 6"),
        ({"max_tokens": 0}, 400, "max_tokens: got 0"),
        ({"max_tokens": 5000}, 400, "max_tokens: got 5000, at most 1024"),
        ({"extra_body": {"threshold": 0.9, "steps": 3}}, 400, "threshold: decides the number of steps"),
        ({"extra_body": {"threshold": 2}}, 400, "threshold: got 2.0"),
        ({"n": 2}, 400, "n: got 2, must be 1"),
        ({"temperature": -1}, 400, "temperature: got -1"),
        ({"top_p": 0.5}, 400, "top_p: got 0.5, is not supported"),
        ({"extra_body": {"bugdet": 5}}, 400, "bugdet: no such field; did you mean budget?"),
        ({"extra_body": {"budget": 401}}, 400, "budget: got 401, must be a whole number from 1 to"),
        ({"extra_body": {"budget": "much"}}, 400, "budget: got 'much'"),
        ({"extra_body": {"path": "side"}}, 400, "path: got 'side', must be one of "),
        ({"extra_body": {"path": "hd"}}, 400, "path: 'hd' selects nothing; leave budget and selector out"),
        ({"extra_body": {"selector": "best"}}, 400, "selector: "),
        ({"extra_body": {"draft": "[mask"}}, 400, "draft: cannot read '[mask'"),
    ],
)
def test_mistakes_are_named(ask, fields, status, words):
    with pytest.raises(openai.APIStatusError) as caught:
        ask(**fields)
    error = caught.value
    assert error.status_code == status and words in error.body["message"]
    assert error.body["type"] == "invalid_request_error"


def test_neutral_fields_of_other_clients_change_nothing(ask):
    plain = ask().choices[0].message.content
    more = ask(top_p=1.0, n=1, presence_penalty=0, user="me", response_format={"type": "text"}, logprobs=False)
    assert more.choices[0].message.content == plain


def test_models_and_health(client, server):
    assert [one.id for one in client.models.list()] == ["tiny"] and client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="there is no 'other'"):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="tiny", input="a")
    assert client.get("/../health", cast_to=object) == {"status": "ok"}


def test_metrics(ask, client):
    ask()
    text = client.get("/../metrics", cast_to=str)
    assert 'shirg_requests_total{status="200"}' in text and "shirg_denoising_steps_total" in text


def test_a_body_above_the_limit(ask):
    with pytest.raises(openai.APIStatusError, match="larger than 1,048,576 bytes") as caught:
        ask("a" * 2**20)
    assert caught.value.status_code == 413


def test_an_image_above_the_limit(ask):
    with pytest.raises(openai.BadRequestError, match="1001x1000 pixels; at most 1,000,000"):
        ask(page=tiny_page(1001, 1000))


def test_the_token(model):
    with running({"tiny": model}, ServerSettings(access=Access(token="secret"))) as server:
        for key in ("wrong", "secre", "secrets"):
            with pytest.raises(openai.AuthenticationError):
                client_of(server, api_key=key).models.list()
        right = client_of(server, api_key="secret")
        assert right.models.list().data and client_of(server).get("/../health", cast_to=object)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_forgotten(server, model, stream):
    client, before = client_of(server), cancelled(server)
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    body = {"model": "tiny", "messages": question("Who?", data_uri(tiny_page())), "max_tokens": 1000, "budget": 60}
    connection.request("POST", "/v1/chat/completions", json.dumps({**body, "stream": stream}))
    if stream:
        assert connection.getresponse().read(5)
    time.sleep(0.2)
    connection.close()
    if stream:
        connection.sock = None
    for _ in range(200):
        if cancelled(server) > before:
            break
        time.sleep(0.02)
    assert cancelled(server) == before + 1
    assert client.chat.completions.create(model="tiny", messages=question("Who?"), max_tokens=4).choices


def cancelled(server) -> float:
    return server.service.metrics.registry.get_sample_value("shirg_cancelled_total")


def test_bytes_that_are_no_http(server):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"\x00\xff garbage\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
