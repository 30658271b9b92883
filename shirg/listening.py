"""Sockets that servers listen on."""

from __future__ import annotations

import ipaddress
import socket

from shirg.errors import UserError


def listen(host: str, port: int) -> socket.socket:
    """A bound socket of `host` and `port`; 0 is any free port.

    Raises:
        UserError: if the port is in use, or `host` is no address of this machine.
    """
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(kind, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {host} --port {port}: cannot be listened on ({reason}); try another port, or 0 for any free one"
        ) from error
    return bound


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
