"""`shirg demo --url`: a running server answers, without a model in this process and without pictures of patches."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from shirg.demo.reading import LONG_SIDE, SHORT_SIDE, Choice, Step
from shirg.errors import UserError
from shirg.evaluation.kept_picture import enlarged_page
from shirg.images import to_rgb
from shirg.lavida.progress import Span

SECONDS = 600.0
"""Longest wait for the server."""


@dataclass
class RemotePage:
    """A page that is sent with every question; the server knows it by its hash."""

    name: str
    canvas: Image.Image
    """The page at the size in which it is drawn."""
    uri: str


class RemoteReader:
    """Asks the first model of a server.

    Args:
        url: as OpenAI's clients have it, http://host:8000/v1.
        token: the server's token, or None.

    Raises:
        UserError: if no server answers there.
    """

    uses_question = False
    side, patches, selector = 672, 2304, "shirg"

    def __init__(self, url: str, token: str | None = None):
        self.url, self.token = url.rstrip("/"), token
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"--url: got {url!r}, must be an address such as http://127.0.0.1:8000/v1")
        with self._open("models") as response:
            self.name = json.load(response)["data"][0]["id"]

    def encode(self, image: Image.Image, name: str) -> RemotePage:
        """The page as it is sent.

        Raises:
            UserError: if it is empty or too large.
        """
        page, buffer = to_rgb(image), io.BytesIO()
        page.save(buffer, "PNG")
        uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return RemotePage(name, enlarged_page(page, "stretch", LONG_SIDE, SHORT_SIDE), uri)

    def answer(self, page: RemotePage, question: str, choice: Choice | None) -> Iterator[Step]:
        """The answer piece by piece, with the budget and selector of `choice`, or by `lowres` if it is None.

        Raises:
            UserError: with the server's message.
        """
        path: str = "lowres"
        ours: dict[str, str | int] = {"path": "lowres"}
        if choice is not None:
            path, ours = "shirg", {"path": "early" if choice.early else "shirg", "budget": choice.budget}
            ours |= {"selector": choice.selector} if choice.selector != self.selector else {}
        image = {"type": "image_url", "image_url": {"url": page.uri}}
        messages = [{"role": "user", "content": [image, {"type": "text", "text": question}]}]
        options = {"stream": True, "stream_options": {"include_usage": True}}
        text, steps = "", 0
        with self._open("chat/completions", {"model": self.name, "messages": messages, **options, **ours}) as response:
            for line in response:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise UserError(f"the server: {chunk['error']['message']}")
                if chunk.get("usage"):
                    steps = chunk["usage"]["completion_tokens_details"]["denoising_steps"]
                piece = chunk["choices"][0]["delta"].get("content") if chunk["choices"] else None
                if piece:
                    text += piece
                    yield Step(path, 0, (Span("kept", 1, text),))
        yield Step(path, steps, (), text)

    def _open(self, route: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{route}", data, headers)
        try:
            return urllib.request.urlopen(request, timeout=SECONDS)
        except urllib.error.HTTPError as error:
            try:
                reason = json.load(error)["error"]["message"]
            except (ValueError, KeyError, TypeError):
                reason = f"status {error.code}"
            raise UserError(f"the server at {self.url}: {reason}") from error
        except OSError as error:
            raise UserError(f"--url: no server answers at {self.url} (start one with shirg serve)") from error
