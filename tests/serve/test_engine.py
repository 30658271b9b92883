"""The engine without a network: batches, errors, clients that leave, the cache."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time

import pytest
import torch

pytest.importorskip("fastapi", reason="shirg serve needs the extra `serve`")

from hypothesis import given
from hypothesis import strategies as st

from shirg.serve import engine
from shirg.serve.api_error import ApiError
from shirg.serve.app import Service
from shirg.serve.engine import final_ids
from shirg.serve.protocol import ChatBody
from tests.serve.running import data_uri, question, settings, small_model
from tests.tiny import tiny_page

WAIT = 60


class Waiter:
    """What a job reported."""

    def __init__(self):
        self.seen, self.ended = [], threading.Event()

    def __call__(self, progress):
        self.seen.append(progress)
        if progress.ended or progress.error:
            self.ended.set()

    @property
    def last(self):
        assert self.ended.wait(WAIT), "no answer"
        return self.seen[-1]


def job_of(service, text="What is the total?", page=None, **fields):
    uris = [data_uri(tiny_page() if page is None else page)]
    body = ChatBody.model_validate({"model": "tiny", "messages": question(text, *uris), "budget": 60, **fields})
    waiter = Waiter()
    return asyncio.run(service.job("request", body, waiter)), waiter


@pytest.fixture(scope="module", params=["llada", "dream"])
def model(request):
    return small_model(family=request.param)


@pytest.fixture(scope="module")
def llada():
    return small_model()


@contextlib.contextmanager
def started(model, **limits):
    service = Service({"tiny": model}, settings(**limits))
    service.engine.start()
    try:
        yield service
    finally:
        service.engine.close(WAIT)


def test_each_row_of_a_batch_is_as_alone(model, monkeypatch):
    """Unequal prompts, budgets and lengths of answers, several windows, a draft; in float64, to the last token."""
    sizes = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda ids, **others: sizes.append(len(ids)) or generate(ids, **others))
    asked = [
        {"text": f"What is {'so very ' * number}long?", "budget": 30 + 41 * number, "page": tiny_page(text=str(number))}
        for number in range(4)
    ]
    asked[1]["draft"] = "It"
    service = Service({"tiny": model}, settings())
    asked = [{"max_tokens": 20, **one} for one in asked]
    together = [job_of(service, **one) for one in asked]
    for job, _ in together:
        service.engine.submit(job)
    service.engine.start()
    found = [waiter.last.ids for _, waiter in together]
    assert max(sizes) >= 3
    sizes.clear()
    for one, ids in zip(asked, found, strict=True):
        job, waiter = job_of(service, **one)
        service.engine.submit(job)
        assert waiter.last.ids == ids
    assert set(sizes) == {1} and len(set(found)) > 2
    service.engine.close(WAIT)


def test_a_second_question_about_a_page_does_not_encode_it_again(llada):
    calls = []
    hook = llada.tower.vision_model.embeddings.patch_embedding.register_forward_pre_hook(lambda *_: calls.append(1))
    with started(llada) as service:
        for text in ("Who?", "What?", "Who?"):
            job, waiter = job_of(service, text)
            service.engine.submit(job)
            assert waiter.last.ended
        hits, misses = service.engine.selections.hits, service.engine.selections.misses
    hook.remove()
    assert len(calls) == 1 and (hits, misses) == (1, 2)  # the question takes part in the selection


def test_early_is_served_and_shares_no_features_with_shirg(llada):
    with started(llada) as service:
        for path in ("shirg", "early"):
            job, waiter = job_of(service, path=path)
            service.engine.submit(job)
            assert waiter.last.ended and waiter.last.error is None
    keys = {engine.features_key("digest", path, llada.vision) for path in ("shirg", "highres", "early")}
    assert len(keys) == 2


def test_what_fails_fails_alone(llada, monkeypatch):
    generate = llada.generate

    def failing(ids, **others):
        if any(len(row) == broken for row in ids):
            raise RuntimeError("/secret/path is broken")
        return generate(ids, **others)

    monkeypatch.setattr(llada, "generate", failing)
    service = Service({"tiny": llada}, settings())
    jobs = [job_of(service, text) for text in ("Who?", "What is it?", "Which one is it?")]
    broken = len(jobs[1][0].prompt.ids)
    for job, _ in jobs:
        service.engine.submit(job)
    service.engine.start()
    errors = [waiter.last.error for _, waiter in jobs]
    service.engine.close(WAIT)
    assert errors[0] is errors[2] is None and jobs[0][1].last.ids
    assert errors[1].status == 500 and "secret" not in str(errors[1].body())


def test_a_batch_that_does_not_fit_is_halved(llada, monkeypatch):
    generate, sizes = llada.generate, []

    def scarce(ids, **others):
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(ids, **others)

    monkeypatch.setattr(llada, "generate", scarce)
    service = Service({"tiny": llada}, settings())
    jobs = [job_of(service, f"Who is {number}?") for number in range(4)]
    for job, _ in jobs:
        service.engine.submit(job)
    service.engine.start()
    assert all(waiter.last.ended for _, waiter in jobs) and sizes == [4, 2, 2]
    monkeypatch.setattr(llada, "generate", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    job, waiter = job_of(service)
    service.engine.submit(job)
    assert waiter.last.error.code == "out_of_memory"
    service.engine.close(WAIT)


def test_a_broken_device_ends_the_process(llada, monkeypatch):
    """Its parent starts it again."""
    signals = []
    monkeypatch.setattr(engine.os, "kill", lambda pid, number: signals.append((pid, number)))
    monkeypatch.setattr(llada, "generate", lambda *_, **__: (_ for _ in ()).throw(torch.AcceleratorError("CUDA error")))
    with started(llada) as service:
        job, waiter = job_of(service)
        service.engine.submit(job)
        assert waiter.last.error.status == 503 and signals == [(os.getpid(), signal.SIGTERM)]


def test_the_queue_is_bounded_and_those_who_leave_make_room(llada):
    service = Service({"tiny": llada}, settings(queue=2))
    jobs = [job_of(service, f"Who is {number}?") for number in range(3)]
    service.engine.submit(jobs[0][0])
    service.engine.submit(jobs[1][0])
    with pytest.raises(ApiError) as caught:
        service.engine.submit(jobs[2][0])
    assert caught.value.status == 429 and int(caught.value.headers["Retry-After"]) > 0
    service.engine.cancel(jobs[0][0])
    service.engine.submit(jobs[2][0])
    service.engine.start()
    assert jobs[1][1].last.ended and jobs[2][1].last.ended and not jobs[0][1].seen
    service.engine.close(WAIT)


def test_a_batch_without_clients_ends_at_its_next_step(llada):
    with started(llada) as service:
        job, waiter = job_of(service, max_tokens=1000, stream=True)
        service.engine.submit(job)
        while not waiter.seen:
            time.sleep(0.005)
        service.engine.cancel(job)
        steps = len(waiter.seen)
        other, answered = job_of(service, "Who?")
        service.engine.submit(other)
        assert answered.last.ended and len(waiter.seen) <= steps + 1


def test_an_idle_engine_waits_for_requests_that_are_being_read(llada, monkeypatch):
    sizes = []
    generate = llada.generate
    monkeypatch.setattr(llada, "generate", lambda ids, **others: sizes.append(len(ids)) or generate(ids, **others))
    with started(llada, queue=3) as service, contextlib.ExitStack() as reading:
        jobs = [job_of(service, f"Who is {number}?") for number in range(3)]
        for _ in jobs:
            reading.enter_context(service.engine.arriving())
        with pytest.raises(ApiError, match="3 requests are waiting"), service.engine.arriving():
            pass
        for job, _ in jobs:
            service.engine.submit(job)
            time.sleep(0.01)
        reading.close()
        assert all(waiter.last.ended for _, waiter in jobs) and sizes == [3]


def test_closing_answers_what_was_asked_before(llada):
    with started(llada) as service:
        jobs = [job_of(service, f"Who is {number}?") for number in range(3)]
        for job, _ in jobs:
            service.engine.submit(job)
        assert service.engine.close(WAIT) and all(waiter.last.ended for _, waiter in jobs)
        with pytest.raises(ApiError, match="shutting down"):
            service.engine.submit(job_of(service)[0])


def test_the_cache_is_bounded(llada):
    with started(llada, cache_bytes=600_000) as service:
        for number in range(6):
            job, waiter = job_of(service, page=tiny_page(text=str(number)), max_tokens=1)
            service.engine.submit(job)
            assert waiter.last.ended
            assert 0 < service.engine.features.nbytes + service.engine.selections.nbytes <= 600_000


def test_the_kinds_of_jobs_that_are_denoised_together(llada):
    service = Service({"tiny": llada}, settings())
    alike = ({}, {"max_tokens": 100}, {"budget": 90})
    others = ({"steps": 3}, {"threshold": 0.5}, {"draft": "a [mask]"}, {"temperature": 1})
    kinds = [service.engine._kind(job_of(service, **fields)[0]) for fields in (*alike, *others)]
    assert kinds[0] == kinds[1] == kinds[2] and len(set(kinds)) == 5


MASK, STOP = 9, 8


@given(st.lists(st.sampled_from([1, 2, STOP, MASK]), min_size=1, max_size=10), st.integers(0, 4))
def test_final_ids_contain_no_mask_and_end_with_the_stop(row, infill):
    ids, ended = final_ids(row, MASK, frozenset({STOP}), infill)
    assert ids == row[: len(ids)] and MASK not in ids
    if infill:
        assert len(ids) <= infill and ended == (len(ids) == infill)
    else:
        assert STOP not in ids[:-1] and ended == (bool(ids) and ids[-1] == STOP)
        if not ended:
            assert len(ids) == len(row) or row[len(ids)] == MASK
