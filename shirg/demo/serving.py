"""The demo's server and its temporary files."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from shirg.errors import UserError

if TYPE_CHECKING:
    from shirg.demo.reading import Reader
    from shirg.demo.remote import RemoteReader

GRADIO = "gradio>=6.31"
"""Requirement of the extra `demo`."""
UPLOAD_BYTES = 32 * 2**20
"""Largest upload."""
SESSIONS = 16
"""Number of sessions whose page is kept; the oldest is deleted first."""
WAITING = 32
"""Longest queue of requests."""
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "DejaVu Sans Mono", "monospace"]
OWN_SOURCES = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"
"""Content security policy: the browser loads this server's files and inline content only."""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder for all files of the server, uploads included; removed afterwards.

    gradio reads its folders and its telemetry setting from the environment when it is imported.
    """
    with tempfile.TemporaryDirectory(prefix="shirg-demo-", ignore_cleanup_errors=True) as name:
        os.environ.update(
            GRADIO_TEMP_DIR=f"{name}/uploads",
            GRADIO_EXAMPLES_CACHE=f"{name}/examples",
            GRADIO_ANALYTICS_ENABLED="False",
            HF_HUB_DISABLE_TELEMETRY="1",
            MPLCONFIGDIR=f"{name}/matplotlib",
        )
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # gradio imports it; it logs its search for fonts
        yield Path(name)


def serve(reader: Reader | RemoteReader, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C or SIGTERM, which raise `KeyboardInterrupt` once the server is closed.

    Call it within `scratch_folder`.

    Args:
        announce: called with the page's address once it can be opened.

    Raises:
        UserError: if gradio is missing.
    """
    gradio = import_gradio()
    from starlette.middleware import Middleware

    from shirg.demo.examples import example_pages
    from shirg.demo.page import build

    page = build(reader, example_pages()).queue(max_size=WAITING, default_concurrency_limit=1)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        pwa=False,
        footer_links=[],
        enable_monitoring=False,
        max_file_size=UPLOAD_BYTES,
        state_session_capacity=SESSIONS,
        theme=theme(gradio),
        css_paths=Path(__file__).with_name("page.css"),
        app_kwargs={"middleware": [Middleware(OwnSources)], "docs_url": None, "redoc_url": None},
    )
    try:
        announce(address)
        wait_for_signal()
    finally:
        page.close(verbose=False)


def theme(gradio: Any) -> Any:
    """gradio's theme with local fonts, so that none is downloaded, and darker notes."""
    own = gradio.themes.Default(primary_hue="blue", neutral_hue="slate", font=FONTS, font_mono=MONO)
    notes = {"": "*neutral_600", "_dark": "*neutral_400"}
    return own.set(
        **{
            f"{part}{mode}": hue
            for part in ("body_text_color_subdued", "block_info_text_color")
            for mode, hue in notes.items()
        }
    )


def import_gradio() -> Any:
    """The module.

    Raises:
        UserError: if it is missing, with the command that installs it.
    """
    try:
        import gradio
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError(f"gradio is not installed: {sys.executable} -m pip install '{GRADIO}'") from error
    return gradio


def wait_for_signal() -> None:
    """Wait for Ctrl-C or SIGTERM, which raise `KeyboardInterrupt`."""

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        threading.Event().wait()
    finally:
        signal.signal(signal.SIGTERM, before)


class OwnSources:
    """Adds `OWN_SOURCES` to every response of the server (ASGI)."""

    def __init__(self, app: Callable[..., Any]):
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def sent(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", OWN_SOURCES.encode())
                message = {**message, "headers": [*message["headers"], policy]}
            await send(message)

        await self.app(scope, receive, sent)
