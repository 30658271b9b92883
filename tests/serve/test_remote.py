"""Fetching images: allowed hosts only, and no private address, also after a redirection or a second look-up of the name."""

from __future__ import annotations

import http.server
import socket
import threading

import pytest

from shirg.errors import UserError
from shirg.serve import remote
from shirg.serve.remote import fetch, is_public


class Site(http.server.BaseHTTPRequestHandler):
    """/page.png is a file; the others are what must not be followed."""

    def do_GET(self):  # the library's name
        port = self.server.server_address[1]
        targets = {
            "/moved": "/page.png",
            "/circle": "/circle",
            "/elsewhere": f"http://evil.example:{port}/page.png",
            "/metadata": "http://169.254.169.254/latest",
            "/file": "file:///etc/passwd",
        }
        if self.path in targets:
            self.send_response(302)
            self.send_header("Location", targets[self.path])
            self.end_headers()
        elif self.path == "/page.png":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 5000)
        else:
            self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def names(monkeypatch):
    """Every name resolves to this machine, which counts as public; returns the names that were looked up."""
    asked = []

    def found(host, port, **_):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    connect = socket.create_connection
    monkeypatch.setattr(remote.socket, "getaddrinfo", found)
    monkeypatch.setattr(
        remote.socket, "create_connection", lambda place, **options: _connected(connect, place, options)
    )
    monkeypatch.setattr(remote, "is_public", lambda address: address == "127.0.0.1")
    return asked


def _connected(connect, place, options):
    assert place[0] == "127.0.0.1", "only the address that was checked"
    connection = socket.socket()
    connection.settimeout(options["timeout"])
    connection.connect(place)
    return connection


def test_a_file_and_a_redirection_on_the_host(site, names):
    for path in ("page.png", "moved"):
        assert len(fetch(f"http://pages.example:{site}/{path}", "page", ("pages.example",), 5000)) == 5000


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("elsewhere", "images of evil.example are not fetched"),
        ("metadata", "images of 169.254.169.254 are not fetched"),
        ("file", "must be a data URI or an http address"),
        ("circle", "more than 3 redirections"),
        ("nothing", "answered with status 404"),
    ],
)
def test_what_is_not_followed(site, names, path, words):
    with pytest.raises(UserError, match=words):
        fetch(f"http://pages.example:{site}/{path}", "page", ("pages.example",), 5000)
    assert set(names) <= {"pages.example"}


def test_a_file_above_the_limit(site, names):
    with pytest.raises(UserError, match="larger than 4,999 bytes"):
        fetch(f"http://pages.example:{site}/page.png", "page", ("pages.example",), 4999)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "2130706433"])
def test_an_allowed_host_with_a_private_address(site, host):
    """Also where the operator allowed it: a name's owner decides what it resolves to."""
    with pytest.raises(UserError, match="private address|no host"):
        fetch(f"http://{host}:{site}/page.png", "page", (host.strip("[]"),), 5000)


@pytest.mark.parametrize(
    "url",
    ["ftp://pages.example/a", "http://", "http://[::1", "http://pages.example:99999/", "http://pages.example/\r\nX:"],
)
def test_what_is_no_address(url):
    with pytest.raises(UserError, match="^page: "):
        fetch(url, "page", ("pages.example",), 5000)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.0.0.1", False),
        ("172.16.5.4", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:a00:1::", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(address) == public
