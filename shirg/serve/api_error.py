"""Errors in OpenAI's form."""

from __future__ import annotations

from typing import Any

from shirg.errors import UserError


class ApiError(Exception):
    """An error response: {"error": {"message", "type", "param", "code"}} with an HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = status, message, kind, code, param
        self.headers = headers or {}

    @classmethod
    def of(cls, error: UserError) -> ApiError:
        """A mistake in the request: status 400; the words before the first colon name the field."""
        field = str(error).partition(":")[0]
        return cls(400, str(error), param=field if " " not in field else None)

    def body(self) -> dict[str, Any]:
        """The JSON of the response."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def too_busy(waiting: int) -> ApiError:
    """The queue is full."""
    message = f"{waiting} requests are waiting already; try again in a second"
    return ApiError(429, message, kind="rate_limit_error", code="queue_full", headers={"Retry-After": "1"})


def shutting_down() -> ApiError:
    """The server ends, or its model does."""
    message = "the server is shutting down; try again in a few seconds"
    return ApiError(503, message, kind="server_error", code="shutting_down", headers={"Retry-After": "5"})


def out_of_memory() -> ApiError:
    """One request alone is too large for the device."""
    message = "the request does not fit in memory; use a smaller budget, image or max_tokens"
    return ApiError(507, message, kind="server_error", code="out_of_memory")


def internal(request_id: str) -> ApiError:
    """A bug; only the log has its traceback."""
    return ApiError(500, f"internal error; the server's log has it as {request_id}", kind="server_error")
