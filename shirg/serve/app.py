"""The routes of the server."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from shirg.errors import UserError
from shirg.gate import ShirgGate
from shirg.lavida import Lavida
from shirg.lavida.drafts import answer_block
from shirg.lavida.vision import MODES, path_of
from shirg.serve import protocol
from shirg.serve.api_error import ApiError, internal
from shirg.serve.chat import check_turns, prompt_of
from shirg.serve.engine import Engine, Job, PageViews, Progress, features_key
from shirg.serve.final_text import FinalText
from shirg.serve.metrics import Metrics
from shirg.serve.pages import ImageFile, data_uri
from shirg.serve.protocol import ChatBody
from shirg.serve.remote import fetch
from shirg.serve.settings import ServerSettings

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5
"""Time for the last batch when the server ends; before that, uvicorn waits for all answers."""
DECODERS = 2
"""Images that are decoded at the same time."""


class Service:
    """The models behind the routes.

    Args:
        models: name -> model; the first one is the default of clients that ask for none. All share one language model.
    """

    def __init__(self, models: Mapping[str, Lavida], settings: ServerSettings):
        first = next(iter(models.values()))
        if first.tokenizer is None:
            raise UserError("this model came without a tokenizer, which a server needs")
        self.models, self.settings, self.metrics = models, settings, Metrics()
        limits = settings.limits
        self.engine = Engine(first, limits.queue, limits.batch, limits.cache_bytes, self.metrics)
        self._decoding = asyncio.Semaphore(DECODERS)

    def model(self, name: str) -> Lavida:
        """The model of this name; raises `ApiError` if there is none."""
        if name not in self.models:
            message = f"model: there is no {name[:80]!r}; there are {', '.join(self.models)}"
            raise ApiError(404, message, code="model_not_found", param="model")
        return self.models[name]

    async def job(self, request_id: str, body: ChatBody, report: Callable[[Progress], None]) -> Job:
        """The engine's job of a request.

        Raises:
            UserError: for a mistake in the request.
            ApiError: for an unknown model.
        """
        limits, defaults = self.settings.limits, self.settings.defaults
        body.check()
        model = self.model(body.model)
        check_turns(body.messages, limits.turns, limits.images)
        length = body.asked_tokens or model.config.answer_tokens
        if length > limits.answer_tokens:
            raise UserError(f"max_tokens: got {length}, at most {limits.answer_tokens} are served")
        vision = model.vision
        if body.selector is not None:
            try:
                vision = replace(vision, gate=replace(vision.gate, selector=body.selector))
                ShirgGate(vision.gate)
            except ValueError as error:
                raise UserError(f"selector: {error}") from error
        path = body.path or defaults.path
        if path not in MODES:
            raise UserError(f"path: got {path!r}, must be one of {', '.join(MODES)}")
        if path_of(path).reduce != "select" and (body.budget is not None or body.selector is not None):
            raise UserError(f"path: {path!r} selects nothing; leave budget and selector out")
        prompt = await asyncio.to_thread(prompt_of, model, body.messages, limits.prompt_tokens)
        chosen = body.steps is not None or body.threshold is not None
        job = Job(
            id=request_id,
            model=model,
            model_name=body.model,
            prompt=prompt,
            pages=(),
            path=path,
            budget=defaults.budget if body.budget is None else body.budget,
            vision=vision,
            max_tokens=length,
            report=report,
            steps=body.steps if chosen else defaults.steps,
            threshold=body.threshold if chosen else defaults.threshold,
            temperature=float(body.temperature or 0),
            seed=body.seed,
            every_step=bool(body.stream),
        )
        if body.draft is not None:
            block = answer_block(body.draft, None, None, model.config, model.tokenizer)
            assert block.draft_tokens is not None, "a draft was given"
            ids = block.draft_tokens[0].tolist()
            job.infill_length, job.draft = block.infill_length, tuple(ids)
            if not block.infill_length:
                job.draft = job.draft[: ids.index(model.config.mask_token_id)]
            job.max_tokens = max(length, block.infill_length)
        job.pages = [await self._page(job, *place) for place in _places(body)]
        return job

    async def _page(self, job: Job, url: str, name: str) -> PageViews:
        """An image of the request, cut into views; not decoded if its features are known."""
        access, limits = self.settings.access, self.settings.limits
        if url.startswith("data:"):
            file = data_uri(url, name)
        else:
            file = ImageFile(await asyncio.to_thread(fetch, url, name, access.image_hosts, limits.body_bytes), name)
        digest = file.digest
        known = self.engine.features.get(features_key(digest, job.path, job.vision))
        if known is not None:
            self.metrics.looked_up("tower", True)
            return PageViews(digest, None, known.image_size, known)
        shapes, views = job.model.view_shapes(job.vision), path_of(job.path).views

        def cut() -> PageViews:
            image = file.open(limits.pixels)
            return PageViews(digest, shapes.cut(image, views), image.size)

        async with self._decoding:
            return await asyncio.to_thread(cut)

    def text_of(self, job: Job) -> Callable[[Sequence[int]], str]:
        """The text of a job's final ids."""
        import torch

        def text(ids: Sequence[int]) -> str:
            return job.model.answer_text(torch.tensor(ids, dtype=torch.long), min(job.infill_length, len(ids)))

        return text

    def drop(self, job: Job) -> None:
        """Forget a job whose client has gone, or that failed."""
        self.engine.cancel(job)
        if not job.done:
            self.metrics.cancelled.inc()

    @staticmethod
    def finish_reason(job: Job, last: Progress, text: FinalText) -> str:
        """ "length" if the answer was cut at its limit."""
        ended = text.stopped or job.infill_length or (last.ids and last.ids[-1] in job.model.stop_ids)
        return "stop" if ended else "length"

    def used(self, job: Job, last: Progress) -> dict[str, Any]:
        """The usage of a finished job, which is also counted."""
        text = int((job.prompt.ids != job.model.config.image_token_index).sum())
        for kind, number in (("text", text), ("visual", last.visual_tokens), ("answer", len(last.ids))):
            self.metrics.tokens.labels(kind).inc(number)
        self.metrics.steps.inc(last.steps)
        self.metrics.seconds.observe(time.monotonic() - job.queued)
        return protocol.usage(text + last.visual_tokens, last.visual_tokens, len(last.ids), last.steps)


def _places(body: ChatBody) -> list[tuple[str, str]]:
    """Address and name of each image of a request."""
    return [
        (url, f"messages[{turn}].image_url[{number}]")
        for turn, message in enumerate(body.messages)
        for number, url in enumerate(message.urls)
    ]


class Answers:
    """The progress of one job, from the engine's thread to the event loop."""

    def __init__(self, request: Request):
        self.request, self._loop = request, asyncio.get_running_loop()
        self._events: asyncio.Queue[Progress] = asyncio.Queue()

    def report(self, progress: Progress) -> None:
        """Called by the engine."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, progress)

    async def next(self) -> Progress:
        """The next progress.

        Raises:
            ApiError: if the job failed.
        """
        progress = await self._events.get()
        if progress.error is not None:
            raise progress.error
        return progress

    async def next_unless_gone(self) -> Progress:
        """The same for a response that has not begun.

        Raises:
            ClientGone: if the client closed its connection.
        """
        waiting = asyncio.ensure_future(self.next())
        leaving = asyncio.ensure_future(self.request.receive())  # the body was read: only a disconnection follows
        try:
            await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise ClientGone
            return await waiting
        finally:
            for task in (waiting, leaving):
                task.cancel()


class ClientGone(Exception):
    """The client closed its connection."""


def create_app(models: Mapping[str, Lavida], settings: ServerSettings) -> FastAPI:
    """The application; its engine runs from startup to shutdown.

    Args:
        models: name -> model, all with one language model.

    Raises:
        UserError: for a model without a tokenizer.
    """
    service = Service(models, settings)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.engine.close, CLOSE_SECONDS)

    app = FastAPI(title="SHIRG", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    schema = {"requestBody": {"content": {"application/json": {"schema": ChatBody.model_json_schema()}}}}

    @app.post("/v1/chat/completions", openapi_extra=schema)
    async def chat(request: Request) -> Response:
        return await chat_completion(service, request)

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [protocol.model_card(name) for name in models]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        service.model(name)
        return protocol.model_card(name)

    @app.get("/health")
    async def health() -> Response:
        """Whether the model's thread runs."""
        return JSONResponse({"status": "ok"}) if service.engine.alive else JSONResponse({"status": "dead"}, 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.exception_handler(ApiError)
    async def api_error(_request: Request, error: ApiError) -> Response:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> Response:
        return error_response(ApiError(error.status_code, str(error.detail)))

    app.add_middleware(Bearer, token=settings.access.token)
    return app


def error_response(error: ApiError) -> Response:
    """An error in OpenAI's form."""
    return JSONResponse(error.body(), error.status, error.headers)


async def chat_completion(service: Service, request: Request) -> Response:
    """`POST /v1/chat/completions`, with its status counted."""
    request_id = f"chatcmpl-{uuid.uuid4().hex}"
    try:
        response = await _answered(service, request, request_id)
    except UserError as error:
        response = error_response(ApiError.of(error))
    except ApiError as error:
        response = error_response(error)
    except ClientGone:
        response = Response(status_code=499)  # nobody reads it
    except Exception:
        logger.exception("request %s failed", request_id)
        response = error_response(internal(request_id))
    service.metrics.requests.labels(str(response.status_code)).inc()
    response.headers["x-request-id"] = request_id
    return response


async def _answered(service: Service, request: Request, request_id: str) -> Response:
    answers = Answers(request)
    with service.engine.arriving():
        data = await read_body(request, service.settings.limits.body_bytes)
        body = await asyncio.to_thread(parsed, data)
        job = await service.job(request_id, body, answers.report)
        service.engine.submit(job)
    text = FinalText(service.text_of(job), body.stops)
    try:
        first = await answers.next_unless_gone()
        if body.stream:
            pieces = streamed(service, job, body, answers, first, text)
            return StreamingResponse(pieces, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        last = first
        text.update(last.ids, complete=last.ended)
        while not (last.ended or text.stopped):
            last = await answers.next_unless_gone()
            text.update(last.ids, complete=last.ended)
    except BaseException:
        service.drop(job)
        raise
    service.engine.cancel(job)
    reason = service.finish_reason(job, last, text)
    used = service.used(job, last)
    return JSONResponse(protocol.completion(request_id, body.model, text.sent, reason, used, int(time.time())))


async def streamed(
    service: Service, job: Job, body: ChatBody, answers: Answers, first: Progress, text: FinalText
) -> AsyncIterator[str]:
    """The server-sent events of an answer."""
    created, last = int(time.time()), first

    def event(delta: dict[str, Any] | None, *others: Any) -> str:
        return f"data: {json.dumps(protocol.chunk(job.id, body.model, created, delta, *others))}\n\n"

    finished = False
    try:
        yield event({"role": "assistant", "content": ""})
        while True:
            piece = text.update(last.ids, complete=last.ended)
            if piece:
                yield event({"content": piece})
            if last.ended or text.stopped:
                break
            last = await answers.next()
        finished = True
        used = service.used(job, last)
        yield event({}, service.finish_reason(job, last, text))
        if body.stream_options is not None and body.stream_options.include_usage:
            yield event(None, None, used)
        yield "data: [DONE]\n\n"
    except ApiError as error:  # the status is sent already
        finished = True
        yield f"data: {json.dumps(error.body())}\n\n"
    finally:
        if finished:
            service.engine.cancel(job)
        else:
            service.drop(job)


async def read_body(request: Request, limit: int) -> bytes:
    """The body.

    Raises:
        ApiError: if it is larger than `limit`.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise ApiError(413, f"the body is larger than {limit:,} bytes", code="body_too_large")
        parts.append(part)
    return b"".join(parts)


def parsed(data: bytes) -> ChatBody:
    """The request in a body.

    Raises:
        UserError: if it is none.
    """
    try:
        return ChatBody.model_validate_json(data)
    except ValidationError as error:
        raise UserError(protocol.explained(error.errors(include_url=False))) from None


class Bearer:
    """Refuses requests without the token, except for /health (ASGI)."""

    def __init__(self, app: Callable[..., Any], token: str | None):
        self.app, self.token = app, token

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if self.token is None or scope["type"] != "http" or scope["path"] == "/health" or self._knows(scope):
            await self.app(scope, receive, send)
            return
        error = ApiError(401, "the bearer token is missing or wrong", code="invalid_api_key")
        error.headers["WWW-Authenticate"] = "Bearer"
        await error_response(error)(scope, receive, send)

    def _knows(self, scope: dict[str, Any]) -> bool:
        assert self.token is not None, "compared only if there is one"
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, b"Bearer " + self.token.encode())
