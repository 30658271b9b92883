"""A server in a thread of the tests' process, and pages to ask about."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi", reason="shirg serve needs the extra `serve`")

import uvicorn

from shirg.lavida import Lavida
from shirg.serve.app import Service, create_app
from shirg.serve.settings import Limits, ServerSettings
from tests.tiny import tiny_model


def small_model(**overrides: object) -> Lavida:
    """The tiny model in float64, with a large view of 20 x 20 patches, and windows of 12 tokens."""
    model = tiny_model(**{"shirg": {"answer_tokens": 12}, **overrides})
    model.vision = dataclasses.replace(model.vision, resolution=280)
    return model.to(torch.float64)


def settings(**limits: Any) -> ServerSettings:
    """A server's settings with these limits."""
    return ServerSettings(Limits(**limits))


@dataclasses.dataclass
class Running:
    """A running server."""

    url: str
    service: Service


@contextlib.contextmanager
def running(models: Mapping[str, Lavida], chosen: ServerSettings | None = None) -> Iterator[Running]:
    """A server on a free port of the loopback."""
    app = create_app(models, chosen or ServerSettings())
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.service)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def data_uri(image: Image.Image | bytes, kind: str = "png") -> str:
    """The image, or file, as a data URI."""
    data = image if isinstance(image, bytes) else encoded(image, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"


def question(text: str, *uris: str) -> list[dict[str, Any]]:
    """Messages that ask about images."""
    images = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]
