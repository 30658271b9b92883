"""Bodies of requests and responses, as OpenAI's chat completions have them, and our fields beside theirs."""

from __future__ import annotations

import difflib
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from shirg import ranges
from shirg.errors import UserError

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "modalities": (["text"],),
    "store": (False,),
    "audio": (),
    "function_call": (),
    "refusal": (),
    "tool_calls": ([],),
}
"""Fields of OpenAI's that are taken if they are null or have one of these values, which change nothing."""
IGNORED = ("user", "metadata", "service_tier", "parallel_tool_calls", "name", "annotations", "safety_identifier")
"""Fields of OpenAI's that concern no answer."""


class Body(BaseModel):
    """A JSON object without unknown fields."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def known_fields(cls, data: Any) -> Any:
        """Remove OpenAI's fields that change nothing.

        Raises:
            ValueError: for an unknown field, or one of OpenAI's with a value that would change the answer.
        """
        if not isinstance(data, dict):
            return data
        kept = {}
        for name, value in data.items():
            if name in cls.model_fields:
                kept[name] = value
            elif name in NEUTRAL:
                if value is not None and value not in NEUTRAL[name]:
                    allowed = ", ".join(map(repr, NEUTRAL[name])) or "null"
                    raise ValueError(f"{name}: got {value!r:.80}, is not supported; leave it out (or {allowed})")
            elif name not in IGNORED:
                near = difflib.get_close_matches(name, cls.model_fields, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(cls.model_fields)}"
                raise ValueError(f"{name[:80]}: no such field; {hint}")
        return kept


class TextPart(Body):
    """Text of a turn."""

    type: Literal["text"]
    text: StrictStr


class ImageUrl(Body):
    """Where an image is."""

    url: StrictStr
    """A data URI; or an address, if the server may fetch from its host."""
    detail: Literal["auto", "low", "high"] | None = None
    """Ignored: `path` and `budget` decide."""


class ImagePart(Body):
    """An image of a turn."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Body):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | list[Part]

    @property
    def text(self) -> str:
        """Its text; several parts are lines."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def urls(self) -> list[str]:
        """The addresses of its images."""
        if isinstance(self.content, str):
            return []
        return [part.image_url.url for part in self.content if isinstance(part, ImagePart)]


class StreamOptions(Body):
    """Options of a streamed answer."""

    include_usage: StrictBool | None = None


class ChatBody(Body):
    """The body of `POST /v1/chat/completions`. The last six fields are ours (`extra_body` of the openai client)."""

    model: StrictStr
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: StrictInt | None = None
    max_completion_tokens: StrictInt | None = None
    temperature: StrictFloat | StrictInt | None = None
    seed: StrictInt | None = None
    stop: StrictStr | Annotated[list[StrictStr], Field(max_length=4)] | None = None
    n: StrictInt | None = None
    budget: Annotated[Any, Field(json_schema_extra={"anyOf": [{"type": "integer"}, {"const": "auto"}]})] = None
    path: StrictStr | None = None
    selector: StrictStr | None = None
    steps: StrictInt | None = None
    threshold: StrictFloat | StrictInt | None = None
    draft: StrictStr | None = None

    def check(self) -> None:
        """Raise `UserError` for a number outside its range."""
        allowed = {"temperature": ranges.TEMPERATURE, "seed": ranges.SEED, "steps": ranges.TOKENS}
        allowed |= {"max_tokens": ranges.TOKENS, "max_completion_tokens": ranges.TOKENS}
        if self.threshold is not None and self.steps is not None:
            raise UserError("threshold: decides the number of steps; leave out steps, or threshold")
        if self.threshold is not None:
            ranges.THRESHOLD.check("threshold", float(self.threshold))
        for name, range_ in allowed.items():
            value = getattr(self, name)
            if value is not None:
                range_.check(name, value)
        if self.budget is not None and self.budget != "auto" and not ranges.BUDGET.contains(self.budget):
            raise UserError(f"budget: got {self.budget!r:.80}, must be {ranges.BUDGET}, or 'auto'")
        if self.n not in (None, 1):
            raise UserError(f"n: got {self.n}, must be 1; a greedy answer is always the same")
        if self.stream_options is not None and not self.stream:
            raise UserError("stream_options: are for stream: true")

    @property
    def stops(self) -> list[str]:
        """Stop strings that are not empty."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in given if stop]

    @property
    def asked_tokens(self) -> int | None:
        """Longest answer in tokens, or None."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def explained(errors: list[Any]) -> str:
    """One line about pydantic's errors: the one deepest in the body, with its place and the value received."""
    first = max(errors, key=lambda error: len(error["loc"]))
    place, before = "", None
    for part in first["loc"]:
        is_union_member = isinstance(part, str) and (part == "str" or "[" in part or isinstance(before, int))
        is_field = part in ("role", "content", "text", "image_url") and not isinstance(before, int)
        if isinstance(part, int):
            place += f"[{part}]"
        elif is_field or not is_union_member or part in Message.model_fields:
            place += f".{part}"
        before = part
    place, message = place.lstrip("."), first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{place}.{message}" if place else message
    if first["type"] == "json_invalid":
        return f"the body is no JSON ({first['ctx']['error']})"
    if first["type"] == "missing":
        return f"{place}: missing"
    return f"{place or 'body'}: got {first['input']!r:.80}; {message}"


def usage(prompt_tokens: int, visual_tokens: int, answer_tokens: int, steps: int) -> dict[str, Any]:
    """The tokens of a request; the prompt's contain the visual ones."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": answer_tokens,
        "total_tokens": prompt_tokens + answer_tokens,
        "prompt_tokens_details": {"image_tokens": visual_tokens},
        "completion_tokens_details": {"denoising_steps": steps},
    }


def completion(
    request_id: str, model: str, text: str, finish_reason: str, used: dict[str, Any], created: int
) -> dict[str, Any]:
    """The whole answer."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    head = {"id": request_id, "object": "chat.completion", "created": created, "model": model}
    return {**head, "choices": [choice], "usage": used}


def chunk(
    request_id: str,
    model: str,
    created: int,
    delta: dict[str, Any] | None,
    finish_reason: str | None = None,
    used: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A piece of a streamed answer; without `delta` the last one, which has the usage alone."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    head = {"id": request_id, "object": "chat.completion.chunk", "created": created, "model": model}
    return {**head, "choices": [] if delta is None else [choice], **({} if used is None else {"usage": used})}


def model_card(name: str) -> dict[str, Any]:
    """An entry of `/v1/models`."""
    return {"id": name, "object": "model", "created": STARTED, "owned_by": "shirg"}


STARTED = int(time.time())
