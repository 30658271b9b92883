"""`shirg demo`: selection and answers in a browser."""

from __future__ import annotations

import dataclasses
import ipaddress
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

from shirg import ranges
from shirg.cli.flags import AdaptedModelFlags, GateFlags
from shirg.cli.runner import STOPPED, run_command


@dataclasses.dataclass(kw_only=True)
class Flags(GateFlags, AdaptedModelFlags):
    """Serve a web page: choose or upload an image, change the budget and see the kept patches; ask a question and compare
    the answer with that of `lowres`, step by step, with tokens, times and KV cache of both.

    Needs gradio (pip install 'gradio>=6.31'). The page makes no requests to other machines. Images stay in memory, for
    an hour at most; files are in a temporary folder that Ctrl-C removes.

    shirg demo

    shirg demo --model path/to/lavida --adapter shirg_lora_output/checkpoints/best_model --port 8000
    """

    host: str = "127.0.0.1"
    """Address to listen on. Any other than this machine's own lets others use the page: there is no password."""

    port: Annotated[int, ranges.PORT] = 7860
    """Port to listen on; 0 takes any free one."""


def command(flags: Flags) -> None:
    """Load the model and serve the page until Ctrl-C."""
    from shirg.demo.serving import free_port, scratch_folder

    port = free_port(flags.host, flags.port)
    if not is_loopback(flags.host):
        _say(f"shirg: --host {flags.host}: whoever reaches this machine can use the page; there is no password")
    with scratch_folder():
        from shirg.demo.serving import import_gradio, serve

        import_gradio()  # before the model, which may take minutes
        from shirg.cli.models import load_model

        _say("loading the model ...")
        model = load_model(flags, flags.adapter)
        try:
            serve(model, flags.host, port, lambda address: _say(f"open {address}   (Ctrl-C ends it)"))
        except KeyboardInterrupt:
            sys.exit(STOPPED)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
