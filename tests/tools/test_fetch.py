"""The fetch tool reads public pages; forty ways to make it read something else are refused."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from agentkd.tools import FetchSettings, fetch
from agentkd.tools.address import is_public, resolve

PUBLIC = "93.184.216.34"
NAMES = {
    "example.com": [PUBLIC],
    "intranet.example.com": ["10.0.0.7"],
    "two.example.com": [PUBLIC, "127.0.0.1"],  # one public answer does not excuse the other
    "six.example.com": ["::1"],
    "mapped.example.com": ["::ffff:127.0.0.1"],
    "metadata.google.internal": ["169.254.169.254"],
    "localtest.me": ["127.0.0.1"],
    "1\u3002example.com": [PUBLIC],
    "none.example.com": [],
}

REFUSED = [
    # schemes, and what is no URL of a page
    "file:///etc/passwd", "ftp://example.com/x", "gopher://example.com:70/_x", "data:text/plain,hi",
    "javascript:alert(1)", "dict://example.com:11211/stat", "//example.com/x", "example.com", "",
    "http:///x", "http://", "jar:http://example.com!/x", "http://exa mple.com/",
    "http://example.com\r\nHost: x/",
    # who is asked is hidden behind a user, a backslash, a zone or an odd port
    "http://example.com@127.0.0.1/", "http://user:pass@example.com/", "http://example.com\\@127.0.0.1/",
    "http://[fe80::1%25eth0]/", "http://example.com:22/", "http://example.com:6379/", "http://example.com:99999/",
    "http://example.com:x/", "http://127.0.0.1%00.example.com/",
    # loopback, private, link-local and metadata addresses in every spelling
    "http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/",
    "http://0x7f.1/", "http://0/", "http://0.0.0.0/", "http://localhost/", "http://10.1.2.3/",
    "http://192.168.0.1/", "http://172.16.5.4/", "http://169.254.169.254/latest/meta-data/",
    "http://100.64.0.1/", "http://168.63.129.16/", "http://198.18.0.1/", "http://224.0.0.1/", "http://255.255.255.255/",
    "http://[::1]/", "http://[::]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:a9fe:a9fe]/",
    "http://[::127.0.0.1]/", "http://[fc00::1]/", "http://[fe80::1]/", "http://[fec0::1]/",
    "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://[2001:0:1:2:3:4:80ff:fffe]/", "http://[ff02::1]/",
    # names that lead inside
    "http://intranet.example.com/", "http://two.example.com/", "http://six.example.com/",
    "http://mapped.example.com/", "http://metadata.google.internal/", "http://localtest.me/",
    "http://localtest.me./", "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/",
    "http://none.example.com/", "http://unknown.example.com/",
]  # fmt: skip


def resolver(host: str, port: int) -> Sequence[str]:
    """Answer from the list; a number in any spelling is the system's to read."""
    name = host.rstrip(".").lower()
    if name in NAMES:
        return NAMES[name]
    if name[:1].isdigit() or ":" in name or name == "localhost":
        return resolve(host, port)
    raise socket.gaierror("no such name")


class Pages(http.server.BaseHTTPRequestHandler):
    """Pages of the local server that stands for the internet."""

    def do_GET(self) -> None:
        self.server.seen.append((self.headers["Host"], self.path))  # type: ignore[attr-defined]
        kind, _, rest = self.path[1:].partition("/")
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", rest if "://" in rest or rest.startswith("//") else f"/{rest}")
            self.end_headers()
            return
        if kind == "slow":
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            for _ in range(100):
                try:
                    self.wfile.write(b"x")
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(0.05)
            return
        if kind == "drip":  # every byte comes in time, and the head never ends
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 400:
                try:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(0.05)
            return
        if kind == "continue":
            with contextlib.suppress(OSError):
                for _ in range(200):
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    time.sleep(0.05)
            return
        body = {"large": b"y" * 100_000, "latin": "caf\u00e9".encode("latin-1")}.get(kind, b"a page")
        self.send_response(404 if kind == "missing" else 200)
        charset = "; charset=latin-1" if kind == "latin" else ""
        self.send_header("Content-Type", "image/png" if kind == "image" else f"text/plain{charset}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        return None


class Internet:
    """A server in the place of every public address; notes which address was connected to."""

    def __init__(self) -> None:
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
        self.server.seen = []  # type: ignore[attr-defined]
        self.connected: list[str] = []
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def seen(self) -> list[tuple[str, str]]:
        return list(self.server.seen)  # type: ignore[attr-defined]

    def connect(self, address: str, port: int, seconds: float) -> socket.socket:
        self.connected.append(address)
        return socket.create_connection(self.server.server_address[:2], timeout=seconds)


@pytest.fixture
def internet() -> Iterator[Internet]:
    made = Internet()
    yield made
    made.server.shutdown()
    made.server.server_close()


def read(internet: Internet, url: str, **settings: Any) -> Any:
    return fetch(FetchSettings(**settings), resolver=resolver, connector=internet.connect).call({"url": url})


def test_there_are_at_least_forty_tricks() -> None:
    assert len(set(REFUSED)) == len(REFUSED) >= 40


@pytest.mark.parametrize("url", REFUSED)
def test_a_trick_is_refused_before_anything_is_connected(internet: Internet, url: str) -> None:
    result = read(internet, url)
    assert result.error
    assert "Traceback" not in result.error
    assert internet.connected == []


@pytest.mark.parametrize("url", [url for url in REFUSED if "\r" not in url and " " not in url and url])
def test_a_redirect_to_a_trick_is_refused_too(internet: Internet, url: str) -> None:
    is_inside = ":///" in url or ("://" not in url and not url.startswith("//"))  # a path of the same host
    result = read(internet, f"http://example.com/to/{url.replace('%', '%25').replace(chr(92), '%5C')}")
    assert set(internet.connected) == {PUBLIC}
    if not is_inside and not url.startswith("//example.com"):
        assert result.error


def test_a_public_page_is_read_from_the_address_that_was_checked(internet: Internet) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"]])  # a resolver that changes its mind
    tool = fetch(resolver=lambda host, port: next(answers), connector=internet.connect)
    assert tool.call({"url": "http://example.com/x?y=1#z"}).content == "a page"
    assert internet.connected == [PUBLIC]
    assert internet.seen == [("example.com", "/x?y=1")]
    assert tool.call({"url": "http://example.com/x"}).error  # asked again, judged again
    assert internet.connected == [PUBLIC]
    assert tool.spec.trust == "untrusted"


def test_redirects_are_followed_and_counted(internet: Internet) -> None:
    assert read(internet, "http://example.com/to/to/x").content == "a page"
    assert read(internet, "http://example.com/to/http://example.com/x").content == "a page"
    assert "more than 3 redirects" in read(internet, "http://example.com/to/to/to/to/x").error
    assert "more than 0 redirects" in read(internet, "http://example.com/to/x", max_redirects=0).error


def test_size_time_kind_and_status_are_limited(internet: Internet) -> None:
    large = read(internet, "http://example.com/large", max_bytes=1000)
    assert large.content == "y" * 1000 + "\n[cut]"
    started = time.monotonic()
    assert "TimeoutError" in read(internet, "http://example.com/slow", seconds=0.5).error
    assert time.monotonic() - started < 3
    assert "no text but `image/png`" in read(internet, "http://example.com/image").error
    assert "answered 404" in read(internet, "http://example.com/missing").error
    assert read(internet, "http://example.com/latin").content == "caf\u00e9"


@pytest.mark.parametrize("kind", ["drip", "continue"])
def test_a_head_that_never_ends_is_cut_at_the_deadline(internet: Internet, kind: str) -> None:
    started = time.monotonic()
    assert "cannot be read" in read(internet, f"http://example.com/{kind}", seconds=0.5).error
    assert time.monotonic() - started < 5.0  # by its own pace it would take ten seconds and more


def test_hosts_may_be_listed(internet: Internet) -> None:
    listed = {"hosts": ("example.org",)}
    assert "not among" in read(internet, "http://example.com/", **listed).error
    assert "not among" in read(internet, "http://evilexample.org/", **listed).error
    assert internet.connected == []


def test_addresses_are_judged() -> None:
    for public in ("8.8.8.8", PUBLIC, "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        assert is_public(public), public
    for inside in ("127.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "192.0.2.1", "2001:db8::1", "::"):
        assert not is_public(inside), inside
