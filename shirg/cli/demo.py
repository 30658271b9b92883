"""`shirg demo`: selection and answers in a browser."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NoReturn

from tyro.conf import arg

from shirg import ranges
from shirg.cli.flags import AdaptedModelFlags, GateFlags, OptionalFile, read_token
from shirg.cli.runner import STOPPED, run_command
from shirg.errors import UserError
from shirg.listening import is_loopback, listen

if TYPE_CHECKING:
    from shirg.demo.reading import Reader
    from shirg.demo.remote import RemoteReader


@dataclasses.dataclass(kw_only=True)
class Flags(GateFlags, AdaptedModelFlags):
    """Serve a web page: choose or upload an image, change the budget and see the kept patches; ask a question and compare
    the answer with that of `lowres`, step by step, with tokens, times and KV cache of both.

    Needs gradio (pip install 'gradio>=6.31'). The page makes no requests to other machines. Images stay in memory, for
    an hour at most; files are in a temporary folder that Ctrl-C removes.

    shirg demo

    shirg demo --model path/to/lavida --adapter shirg_lora_output/checkpoints/best_model --port 8000

    shirg demo --url http://127.0.0.1:8000/v1              the model of a running shirg serve
    """

    host: str = "127.0.0.1"
    """Address to listen on. Any other than this machine's own lets others use the page: there is no password."""

    port: Annotated[int, ranges.PORT] = 7860
    """Port to listen on; 0 takes any free one."""

    url: Annotated[str | None, arg(metavar="URL", help_behavior_hint="(default: none)")] = None
    """A running `shirg serve`, such as http://127.0.0.1:8000/v1, which answers instead of a model of this process. The patches
    that it keeps are not drawn."""

    token_file: OptionalFile = None
    """File with the token of that server."""


def command(flags: Flags) -> None:
    """Load the model and serve the page until Ctrl-C."""
    from shirg.demo.serving import scratch_folder

    with listen(flags.host, flags.port) as probe:
        port = probe.getsockname()[1]
    if not is_loopback(flags.host):
        _say(f"shirg: --host {flags.host}: whoever reaches this machine can use the page; there is no password")
    with scratch_folder():
        from shirg.demo.serving import import_gradio, serve

        import_gradio()  # before the model, which may take minutes
        reader = _reader(flags)
        try:
            serve(reader, flags.host, port, lambda address: _say(f"open {address}   (Ctrl-C ends it)"))
        except KeyboardInterrupt:
            sys.exit(STOPPED)


def _reader(flags: Flags) -> Reader | RemoteReader:
    """The model of the flags, or the server at `--url`."""
    if flags.url is not None:
        from shirg.demo.remote import RemoteReader

        if flags.adapter is not None:
            raise UserError(f"--adapter: got {flags.adapter}, but the server at --url has its own models; leave it out")
        return RemoteReader(flags.url, read_token(flags.token_file))
    from shirg.cli.models import load_model
    from shirg.demo.reading import Reader

    _say("loading the model ...")
    return Reader(load_model(flags, flags.adapter))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
