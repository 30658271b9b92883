"""Ports that servers listen on."""

from __future__ import annotations

import socket

import pytest

from shirg.errors import UserError
from shirg.listening import is_loopback, listen


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_is_this_machine_alone(host, own):
    assert is_loopback(host) == own


def test_a_port_is_free_or_the_mistake_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot be listened on"):
            listen("127.0.0.1", port)
        with listen("127.0.0.1", 0) as free:
            assert free.getsockname()[1] not in (0, port)
    with pytest.raises(UserError, match="--host 192.0.2.1"):  # an address for documentation, nobody's
        listen("192.0.2.1", 0)
