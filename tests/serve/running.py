"""A server in a thread of the tests' process, and pages to ask about."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator, Mapping

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="shirg serve needs the extra `serve`")

import uvicorn

from shirg.lavida import Lavida
from shirg.serve.app import Service, create_app
from shirg.serve.settings import ServerSettings


class Running:
    """A running server."""

    def __init__(self, url: str, service: Service, server: uvicorn.Server):
        self.url, self.service, self.server = url, service, server


@contextlib.contextmanager
def running(models: Mapping[str, Lavida], settings: ServerSettings | None = None) -> Iterator[Running]:
    """A server on a free port of the loopback."""
    app = create_app(models, settings or ServerSettings())
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.service, server)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def data_uri(image: Image.Image, kind: str = "PNG", **options: object) -> str:
    """The image as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def question(text: str, *uris: str) -> list[dict[str, object]]:
    """Messages that ask about images."""
    images = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]
