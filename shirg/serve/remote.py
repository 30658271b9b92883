"""Fetching images by address: from allowed hosts only, and never from a private network."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
import urllib.parse
from collections.abc import Sequence

from shirg.errors import UserError

SECONDS = 10.0
"""For all of one fetch."""
REDIRECTS = 3
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def fetch(url: str, name: str, hosts: Sequence[str], max_bytes: int) -> bytes:
    """The file at an http or https address.

    The host of every redirection must be allowed, too. The connection is made to the address that was checked, so that a name
    that resolves differently the second time has no effect.

    Args:
        name: the image's place in the request, for messages.
        hosts: host names that may be asked.

    Raises:
        UserError: for another host, a private address, a failed connection, or a larger file.
    """
    deadline = time.monotonic() + SECONDS
    for _ in range(REDIRECTS + 1):
        parts = _checked(url, name, hosts)
        connection = _connection(parts, name, deadline)
        try:
            target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
            connection.request("GET", target, headers={"User-Agent": "shirg", "Accept": "image/*, application/pdf"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                url = urllib.parse.urljoin(url, response.headers.get("Location", ""))
                continue
            if response.status != 200:
                raise UserError(f"{name}: {parts.hostname} answered with status {response.status}")
            return _limited(response, name, max_bytes, deadline)
        except (OSError, http.client.HTTPException) as error:
            raise UserError(f"{name}: cannot be fetched from {parts.hostname}") from error
        finally:
            connection.close()
    raise UserError(f"{name}: more than {REDIRECTS} redirections")


def _checked(url: str, name: str, hosts: Sequence[str]) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"{name}: got {url[:80]!r}, which is no address") from error
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(f"{name}: got {url[:40]!r}, must be a data URI or an http address")
    if host not in hosts:
        allowed = f"this server fetches from {', '.join(hosts)}" if hosts else "this server fetches none"
        raise UserError(f"{name}: images of {host} are not fetched; {allowed}; send a data URI")
    if any(sign <= " " or sign > "~" for sign in url):
        raise UserError(f"{name}: the address must be percent-encoded")
    return parts


def _connection(parts: urllib.parse.SplitResult, name: str, deadline: float) -> http.client.HTTPConnection:
    """A connection to a public address of the host."""
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    try:
        found = [entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError as error:
        raise UserError(f"{name}: there is no host {host}") from error
    if not all(is_public(str(address)) for address in found):
        raise UserError(f"{name}: {host} has a private address, which is not asked")
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(host, port, timeout=max(deadline - time.monotonic(), 0.01))
    try:
        plain = socket.create_connection((str(found[0]), port), timeout=connection.timeout)
        connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
    except OSError as error:
        raise UserError(f"{name}: cannot be fetched from {host}") from error
    return connection


def is_public(address: str) -> bool:
    """Whether an IP address belongs to no private, local or reserved network."""
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inside = ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(ip.packed[-4:]) if ip in NAT64 else None)
        ip = inside or ip
    return ip.is_global and not ip.is_multicast


def _limited(response: http.client.HTTPResponse, name: str, max_bytes: int, deadline: float) -> bytes:
    data = bytearray()
    while part := response.read1(2**16):
        data += part
        if len(data) > max_bytes:
            raise UserError(f"{name}: the file is larger than {max_bytes:,} bytes")
        if time.monotonic() > deadline:
            raise UserError(f"{name}: the file did not arrive within {SECONDS:g} seconds")
    return bytes(data)
