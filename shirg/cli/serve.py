"""`shirg serve`: answer the requests of OpenAI's clients."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

from tyro.conf import arg

from shirg import ranges
from shirg.cli.flags import OptionalFile, SelectorFlags, read_token
from shirg.cli.runner import STOPPED, USER_MISTAKE, run_command
from shirg.errors import UserError
from shirg.listening import is_loopback, listen

if TYPE_CHECKING:
    from shirg.lavida import Lavida
    from shirg.serve.settings import ServerSettings

ONE_PER_TOKEN = "(default: one per token)"
NO_THRESHOLD = "(default: a number of steps)"


@dataclasses.dataclass(kw_only=True)
class Flags(SelectorFlags):
    """Serve a model to OpenAI's clients: POST /v1/chat/completions with images, /v1/models, /health, /metrics.

    Requests that wait together are denoised together, and a page that was asked about before is not encoded again. Needs the
    extra `serve` (pip install 'shirg[serve]'). docs/serving.md has clients, limits and deployment.

    shirg serve

    shirg serve --model path/to/lavida --adapter receipts=DIR forms=DIR --host 0.0.0.0 --token-file token.txt
    """

    adapter: Annotated[tuple[str, ...], arg(metavar="DIR|NAME=DIR [...]", help_behavior_hint="(default: none)")] = ()
    """Adapters to serve beside the base model: one by its folder, called MODEL+adapter, or one or more by names."""

    host: str = "127.0.0.1"
    """Address to listen on; with any but this machine's own, use --token-file."""

    port: Annotated[int, ranges.PORT] = 8000
    """Port to listen on; 0 takes any free one."""

    mode: Literal["shirg", "early", "lowres", "hd", "highres", "multiview"] = "shirg"
    """Vision path of requests that name none."""

    budget: Annotated[int | Literal["auto"], ranges.BUDGET, arg(metavar="INT|auto")] = 768
    """Visual tokens of requests that set no budget."""

    steps: Annotated[int | None, ranges.TOKENS, arg(metavar="INT", help_behavior_hint=ONE_PER_TOKEN)] = None
    """Denoising steps, per 32 positions of an answer (nano: 16), of requests that set none."""

    threshold: Annotated[float | None, ranges.THRESHOLD, arg(metavar="FLOAT", help_behavior_hint=NO_THRESHOLD)] = None
    """Probability from which tokens are committed at once, instead of a number of steps, for requests that set neither."""

    workers: Annotated[
        int | None, ranges.BATCH, arg(metavar="INT", help_behavior_hint="(default: one per GPU, one without)")
    ] = None
    """Processes with a model each; with GPUs, each has its own."""

    max_batch: Annotated[int, ranges.BATCH] = 16
    """Requests that are denoised together."""

    max_queue: Annotated[int, ranges.BATCH] = 64
    """Requests that wait for a worker; further ones get status 429."""

    max_answer_tokens: Annotated[int, ranges.TOKENS] = 1024
    """Largest max_tokens of a request."""

    max_pixels: Annotated[int, ranges.COUNT] = 40_000_000
    """Largest width x height of an image."""

    page_cache_mb: Annotated[int, ranges.MEGABYTES] = 512
    """Megabytes of encoded pages that are kept for later questions, on the model's device."""

    token_file: OptionalFile = None
    """File with a token, which every request must send as its API key."""

    allow_remote_images: Annotated[
        tuple[str, ...], arg(metavar="HOST [...]", help_behavior_hint="(default: none)")
    ] = ()
    """Hosts that images are fetched from by their address; private addresses never."""


def command(flags: Flags) -> None:
    """Listen, start the workers, and leave with 0 after SIGTERM."""
    with listen(flags.host, flags.port) as listener:
        listener.listen(1024)
        if flags.steps is not None and flags.threshold is not None:
            raise UserError(f"--threshold: got {flags.threshold} beside --steps {flags.steps}; leave one out")
        settings = settings_of(flags)
        if settings.access.token is None and not is_loopback(flags.host):
            say(f"shirg: --host {flags.host}: whoever reaches this machine can ask; --token-file sets a password")
        import_serve()
        from shirg.serve.server import serve

        say("loading the model ...")
        host = f"[{flags.host}]" if ":" in flags.host else flags.host
        ready = partial(say, f"serving http://{host}:{listener.getsockname()[1]}/v1   (Ctrl-C ends it)")
        ended = serve(partial(models, flags), settings, listener, number_of_workers(flags), ready)
    if ended.failed:
        sys.exit(USER_MISTAKE)
    if ended.interrupted:
        sys.exit(STOPPED)


def models(flags: Flags) -> Mapping[str, Lavida]:
    """The base model and its adapters by name.

    Raises:
        UserError: if one cannot be loaded, or two have the same name.
    """
    from shirg.cli.evaluate import adapters
    from shirg.cli.models import load_model
    from shirg.lavida.loading import with_own_projector

    base = Path(flags.model).name
    alone, named = adapters(flags.adapter)
    folders = {**({} if alone is None else {f"{base}+adapter": alone}), **named}
    if base in folders:
        raise UserError(f"--adapter: {base!r} is the name of the model; give the adapter another one")
    found = {base: load_model(flags)}
    for name, folder in folders.items():
        found[name] = with_own_projector(found[base])
        found[name].load_adapter(folder)
    return found


def settings_of(flags: Flags) -> ServerSettings:
    """The server's settings.

    Raises:
        UserError: for a token file without a token.
    """
    from shirg.serve.settings import Access, Defaults, Limits, ServerSettings

    limits = Limits(
        queue=flags.max_queue,
        batch=flags.max_batch,
        pixels=flags.max_pixels,
        answer_tokens=flags.max_answer_tokens,
        cache_bytes=flags.page_cache_mb * 2**20,
    )
    access = Access(read_token(flags.token_file), tuple(host.lower() for host in flags.allow_remote_images))
    return ServerSettings(limits, Defaults(flags.mode, flags.budget, flags.steps, flags.threshold), access)


def number_of_workers(flags: Flags) -> int:
    """One per GPU unless the flags set it."""
    import torch

    return flags.workers or max(torch.cuda.device_count(), 1)


def import_serve() -> None:
    """Raise `UserError` if a package of the extra is missing."""
    for name in ("fastapi", "uvicorn", "pypdfium2", "prometheus_client"):
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            raise UserError(f"{name} is not installed: {sys.executable} -m pip install 'shirg[serve]'") from error


def say(line: str) -> None:
    """Print a line on stderr."""
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
