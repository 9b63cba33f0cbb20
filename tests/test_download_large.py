"""Large files from a real server on this machine: continued, checked, and asked for by several at once."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnrs import DataError, _part, _transfer
from cnnrs._transfer import RemoteFile, check_file, download
from test_download import listing, refused_url
from web_server import File, Reply, Server, failing, sending

__all__ = ["refused_url"]  # a fixture

CONTENT = random.Random(0).randbytes(1_000_000)
OTHER = random.Random(1).randbytes(1_000_000)
HALF = 500_000


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "CNNRS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Do not wait before another attempt; note how long it would have been."""
    noted: list[float] = []
    monkeypatch.setattr(_transfer, "_pause", noted.append)
    return noted


def remote(*urls: str, content: bytes = CONTENT, slack: int = 0) -> RemoteFile:
    """Describe a file of this content."""
    size = len(content)
    digest = hashlib.sha256(content).hexdigest()
    return RemoteFile("net-12345678.pth", urls, size - slack, size + slack, digest[:8] if slack else digest)


def store(server: Server, tmp_path: Path, reply: Reply, slack: int = 0) -> Path:
    """Download CONTENT into tmp_path/cache from a server that replies like this."""
    server.replies["/a"] = reply
    return download(remote(f"{server.url}/a", slack=slack), tmp_path / "cache", timeout=5)


def check_stored(tmp_path: Path, content: bytes = CONTENT) -> None:
    """Check that the file is there and nothing else."""
    assert (tmp_path / "cache" / "net-12345678.pth").read_bytes() == content
    assert listing(tmp_path / "cache") == ["net-12345678.pth"]


def left(tmp_path: Path) -> bytes:
    """Give the part that was left behind, alone with what says where it is from."""
    assert listing(tmp_path / "cache") == ["net-12345678.pth.part", "net-12345678.pth.part.json"]
    return (tmp_path / "cache" / "net-12345678.pth.part").read_bytes()


@pytest.mark.parametrize("slack", [0, 100])
def test_file_is_stored(server: Server, tmp_path: Path, slack: int) -> None:
    path = store(server, tmp_path, File(CONTENT), slack)
    assert path == tmp_path / "cache" / "net-12345678.pth"
    check_stored(tmp_path)
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_right_file_that_is_there_is_not_asked_for(server: Server, tmp_path: Path) -> None:
    store(server, tmp_path, File(CONTENT))
    store(server, tmp_path, File(CONTENT))
    assert server.asked == ["/a"]
    check_stored(tmp_path)


def test_wrong_file_that_is_there_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "net-12345678.pth").write_bytes(OTHER)
    store(server, tmp_path, File(CONTENT))
    check_stored(tmp_path)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("verbose", [None, True, False])
def test_progress_on_a_terminal(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verbose: bool | None
) -> None:
    server.replies["/a"] = File(CONTENT)
    monkeypatch.setattr(sys, "stderr", Terminal())
    download(remote(f"{server.url}/a"), tmp_path, verbose=verbose)
    written = sys.stderr.getvalue()  # type: ignore[attr-defined]
    if verbose is False:
        assert written == ""
    else:
        assert written.startswith("\rnet-12345678.pth [")
        assert written.endswith(f"[{'=' * 24}] 1.0/1.0 MiB\n")


def test_silence_off_a_terminal(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(server, tmp_path, File(CONTENT))
    assert capsys.readouterr() == ("", "")


# continuing


def test_cut_answer_is_continued(server: Server, tmp_path: Path) -> None:
    file = File(CONTENT)
    file.cuts = [HALF, 1, 0, 100_000, 0]  # more in all than may fail in a row
    store(server, tmp_path, file)
    check_stored(tmp_path)
    starts = [HALF, HALF + 1, HALF + 1, HALF + 100_001, HALF + 100_001]
    assert file.ranges == ["", *(f"bytes={start}-" for start in starts)]


@given(cuts=st.lists(st.integers(0, 400_000), max_size=6), announces=st.booleans(), knows_ranges=st.booleans())
def test_any_cuts(server: Server, tmp_path: Path, cuts: list[int], announces: bool, knows_ranges: bool) -> None:
    """Whatever arrives, the file is the right one or is not there."""
    file = File(CONTENT, knows_ranges=knows_ranges)
    file.cuts, file.announces = list(cuts), announces
    try:
        path = store(server, tmp_path, file)
    except ConnectionError:
        assert len(cuts) >= 3
        assert not (tmp_path / "cache" / "net-12345678.pth").exists()
    else:
        check_stored(tmp_path)
        path.unlink()
    for rest in (tmp_path / "cache").iterdir():
        rest.unlink()


@pytest.mark.parametrize(
    "headers", [{"ETag": '"1"'}, {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}], ids=["tag", "date"]
)
def test_next_call_continues(server: Server, tmp_path: Path, headers: dict[str, str]) -> None:
    file = File(CONTENT, headers)
    file.cuts = [HALF, 0, 0, 0]
    with pytest.raises(ConnectionError, match=rf"expected {len(CONTENT)} bytes, got {HALF}"):
        store(server, tmp_path, file)
    assert left(tmp_path) == CONTENT[:HALF]
    file.cuts, file.ranges = [], []
    store(server, tmp_path, file)
    check_stored(tmp_path)
    assert file.ranges == [f"bytes={HALF}-"]


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"1"'}], ids=["nothing", "weak tag"])
def test_answer_that_cannot_be_told_from_another_is_not_continued(
    server: Server, tmp_path: Path, headers: dict[str, str]
) -> None:
    file = File(CONTENT, headers)
    file.cuts = [HALF]
    store(server, tmp_path, file)
    check_stored(tmp_path)
    assert file.ranges == ["", ""]


def test_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    file = File(CONTENT, knows_ranges=False)
    file.cuts = [HALF, HALF + 1]
    store(server, tmp_path, file)
    check_stored(tmp_path)
    assert file.ranges == ["", f"bytes={HALF}-", f"bytes={HALF + 1}-"]


def leave(server: Server, tmp_path: Path, file: File) -> None:
    """Leave half of a file behind."""
    file.cuts = [HALF, 0, 0, 0]
    with pytest.raises(ConnectionError):
        store(server, tmp_path, file)
    assert len(left(tmp_path)) == HALF


def test_changed_file_starts_again(server: Server, tmp_path: Path) -> None:
    leave(server, tmp_path, File(OTHER))
    file = File(CONTENT)
    store(server, tmp_path, file)
    check_stored(tmp_path)
    assert file.ranges == [f"bytes={HALF}-"]


def test_changed_file_is_noticed_by_its_tag(server: Server, tmp_path: Path, waits: list[float]) -> None:
    """A server that does not know If-Range continues with another file; the rest of it is not received."""
    leave(server, tmp_path, File(OTHER, {"ETag": '"other"'}))
    waits.clear()
    file = File(CONTENT, {"ETag": '"new"'})

    def reply(handler: BaseHTTPRequestHandler) -> None:
        del handler.headers["If-Range"]
        file(handler)

    store(server, tmp_path, reply)
    check_stored(tmp_path)
    assert file.ranges == [f"bytes={HALF}-", ""]
    assert len(waits) == 1  # a failed attempt, not a wrong file


def test_changed_file_is_noticed_by_its_hash(server: Server, tmp_path: Path) -> None:
    """A server that continues with another file and does not say so."""
    leave(server, tmp_path, File(OTHER, {"ETag": '"1"'}))
    file = File(CONTENT, {"ETag": '"1"'})
    store(server, tmp_path, file)
    check_stored(tmp_path)
    assert file.ranges == [f"bytes={HALF}-", ""]


def test_wrong_content_twice_is_an_error(server: Server, tmp_path: Path) -> None:
    leave(server, tmp_path, File(OTHER, {"ETag": '"1"'}))
    file = File(CONTENT[::-1], {"ETag": '"1"'})
    file.cuts = [1000, 10, 1000, 10]
    with pytest.raises(DataError, match="SHA256: expected"):
        store(server, tmp_path, file)
    assert listing(tmp_path / "cache") == []


def test_other_range_than_asked_for(server: Server, tmp_path: Path) -> None:
    file = File(CONTENT)
    leave(server, tmp_path, file)

    def reply(handler: BaseHTTPRequestHandler) -> None:
        if "Range" in handler.headers:
            handler.headers.replace_header("Range", "bytes=7-")
        file(handler)

    file.ranges = []
    store(server, tmp_path, reply)
    check_stored(tmp_path)
    assert file.ranges == ["bytes=7-", ""]


def test_partial_answer_that_was_not_asked_for(server: Server, tmp_path: Path) -> None:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}")
        handler.end_headers()
        handler.wfile.write(CONTENT)

    with pytest.raises(ConnectionError, match="another range"):
        store(server, tmp_path, reply)
    assert listing(tmp_path / "cache") == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "[" * 50_000, '{"url": 1, "validator": 2}', '{"url": "x"}', '{"a": "b"}', "\xff" * 10],
)
def test_part_of_unknown_origin_starts_again(server: Server, tmp_path: Path, text: str) -> None:
    leave(server, tmp_path, File(CONTENT))
    (tmp_path / "cache" / "net-12345678.pth.part.json").write_text(text, encoding="latin-1")
    file = File(CONTENT)
    store(server, tmp_path, file)
    check_stored(tmp_path)
    assert file.ranges == [""]


def test_part_is_of_one_address(server: Server, tmp_path: Path) -> None:
    leave(server, tmp_path, File(CONTENT))
    server.replies["/b"] = file = File(CONTENT)
    download(remote(f"{server.url}/b"), tmp_path / "cache")
    check_stored(tmp_path)
    assert file.ranges == [""]


@pytest.mark.parametrize("damage", [CONTENT[:HALF][::-1], CONTENT + b"more", OTHER], ids=["half", "longer", "whole"])
def test_damaged_part_starts_again(server: Server, tmp_path: Path, damage: bytes) -> None:
    leave(server, tmp_path, File(CONTENT))
    (tmp_path / "cache" / "net-12345678.pth.part").write_bytes(damage)
    store(server, tmp_path, File(CONTENT))
    check_stored(tmp_path)


def test_part_that_is_whole_needs_no_network(tmp_path: Path, refused_url: str) -> None:
    """Its downloader was killed just before the end."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "net-12345678.pth.part").write_bytes(CONTENT)
    download(remote(refused_url), tmp_path / "cache")
    check_stored(tmp_path)


def test_part_beyond_the_server_s_end(server: Server, tmp_path: Path) -> None:
    leave(server, tmp_path, File(CONTENT, {"ETag": '"1"'}))
    short = File(CONTENT[:1000], {"ETag": '"1"'})
    with pytest.raises(DataError, match=f"expected {len(CONTENT)} bytes, 1000 are announced"):
        store(server, tmp_path, short)
    assert short.ranges == [f"bytes={HALF}-", ""]
    assert listing(tmp_path / "cache") == []


# wrong content


def test_wrong_hash(server: Server, tmp_path: Path) -> None:
    right, found = (hashlib.sha256(content).hexdigest() for content in (CONTENT, OTHER))
    with pytest.raises(DataError) as caught:
        store(server, tmp_path, File(OTHER))
    assert f"net-12345678.pth: expected the right content, got none: {server.url}/a: SHA256: " in str(caught.value)
    assert f"SHA256: expected {right}, found {found}" in str(caught.value)
    assert listing(tmp_path / "cache") == []
    with pytest.raises(DataError, match=f"expected one that begins with {right[:8]}, found {found}"):
        store(server, tmp_path, File(OTHER), slack=1)
    assert server.asked == ["/a", "/a"]


WRONG_SIZES: dict[str, tuple[Reply, str]] = {
    "announced too long": (
        sending(CONTENT, declared=1 << 40),
        f"expected {len(CONTENT)} bytes, {1 << 40} are announced",
    ),
    "announced too short": (sending(b"<html>"), f"expected {len(CONTENT)} bytes, 6 are announced"),
    "too long": (sending(CONTENT * 3, declared=None), f"expected {len(CONTENT)} bytes, got more"),
    "one byte too long": (sending(CONTENT + b"\0", declared=None), f"expected {len(CONTENT)} bytes, got more"),
}


@pytest.mark.parametrize("case", WRONG_SIZES)
def test_wrong_size(server: Server, tmp_path: Path, case: str) -> None:
    reply, text = WRONG_SIZES[case]
    with pytest.raises(DataError, match=text):
        store(server, tmp_path, reply)
    assert listing(tmp_path / "cache") == []
    assert server.asked == ["/a"]


def test_size_within_the_bounds(server: Server, tmp_path: Path) -> None:
    server.replies["/a"] = File(CONTENT)
    file = replace(remote(f"{server.url}/a"), min_bytes=len(CONTENT) + 1, max_bytes=len(CONTENT) + 9)
    with pytest.raises(DataError, match="expected 1000001 to 1000009 bytes, 1000000 are announced"):
        download(file, tmp_path)


def test_too_short_without_announcement_is_an_interruption(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=f"expected {len(CONTENT)} bytes, got 4"):
        store(server, tmp_path, sending(b"page", declared=None))
    assert len(server.asked) == 1 + _transfer.ATTEMPTS  # the first one brought something


def test_login_page_spares_the_part(server: Server, tmp_path: Path) -> None:
    file = File(CONTENT)
    leave(server, tmp_path, file)
    with pytest.raises(DataError, match="6 are announced"):
        store(server, tmp_path, sending(b"<html>"))
    assert left(tmp_path) == CONTENT[:HALF]
    store(server, tmp_path, file)
    check_stored(tmp_path)


def test_compressed_answer_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="got status 200 and encoding gzip"):
        store(server, tmp_path, File(CONTENT, {"Content-Encoding": "gzip"}))


def test_next_address_is_tried(server: Server, tmp_path: Path, refused_url: str) -> None:
    server.replies |= {"/wrong": File(OTHER), "/good": File(CONTENT)}
    urls = [f"{server.url}/none", f"{server.url}/wrong", f"{refused_url}/a", f"{server.url}/good"]
    download(remote(*urls), tmp_path / "cache")
    check_stored(tmp_path)
    with pytest.raises(DataError, match=r"/wrong: SHA256.*/none: HTTP Error 404"):
        download(replace(remote(*urls[1::-1]), name="b"), tmp_path / "other")


@pytest.mark.parametrize(("size", "text"), [(999_999, "expected 1000000 bytes, found 999999"), (1_000_000, "SHA256")])
def test_check_file(tmp_path: Path, size: int, text: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(OTHER[:size])
    with pytest.raises(DataError, match=f"^{path}: {text}"):
        check_file(path, remote())
    path.write_bytes(CONTENT)
    check_file(path, remote())
    check_file(path, replace(remote(), algorithm="md5", digest=hashlib.md5(CONTENT).hexdigest().upper()))
    with pytest.raises(FileNotFoundError):
        check_file(tmp_path / "absent", remote())


# errors of the server and of the network


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 451, 501])
def test_final_errors_are_not_asked_again(server: Server, tmp_path: Path, code: int) -> None:
    with pytest.raises(ConnectionError, match=f"HTTP Error {code}") as caught:
        store(server, tmp_path, failing(code))
    assert f"download it from {server.url}/a by hand and put it into {tmp_path / 'cache'}" in str(caught.value)
    assert server.asked == ["/a"]
    assert listing(tmp_path / "cache") == []


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_passing_errors_are_asked_again(server: Server, tmp_path: Path, code: int, waits: list[float]) -> None:
    with pytest.raises(ConnectionError, match=f"HTTP Error {code}"):
        store(server, tmp_path, failing(code))
    assert len(server.asked) == _transfer.ATTEMPTS == 3
    assert waits == [0.5, 1.0]

    answers = iter([failing(code), File(CONTENT)])
    store(server, tmp_path, lambda handler: next(answers)(handler))
    check_stored(tmp_path)


@pytest.mark.parametrize(
    ("text", "seconds"), [("3", 3.0), ("86400", 10.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.5), ("-1", 0.5), ("²", 0.5)]
)
def test_server_may_say_how_long_to_wait(
    server: Server, tmp_path: Path, waits: list[float], text: str, seconds: float
) -> None:
    def busy(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(503)
        handler.send_header("Retry-After", text)
        handler.end_headers()

    answers = iter([busy, File(CONTENT)])
    store(server, tmp_path, lambda handler: next(answers)(handler))
    assert waits == [seconds]


BREAKS: dict[str, Reply] = {
    "not http": lambda handler: handler.wfile.write(b"\0" * 100),
    "nothing": lambda handler: None,
    "chunk that ends early": lambda handler: handler.wfile.write(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc"
    ),
    "chunk without a length": lambda handler: handler.wfile.write(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nlots\r\nabc"
    ),
}


@pytest.mark.parametrize("case", BREAKS)
def test_broken_answers(server: Server, tmp_path: Path, case: str) -> None:
    with pytest.raises(ConnectionError, match=r"expected an answer"):
        store(server, tmp_path, BREAKS[case])
    assert len(server.asked) == (4 if case == "chunk that ends early" else 3)  # that one brings something at first
    assert not (tmp_path / "cache" / "net-12345678.pth").exists()


@pytest.mark.parametrize("start", [b"", CONTENT[:HALF]], ids=["silent", "stops"])
def test_hanging_server_is_given_up(server: Server, tmp_path: Path, start: bytes) -> None:
    done = threading.Event()

    def reply(handler: BaseHTTPRequestHandler) -> None:
        if start and "Range" not in handler.headers:
            sending(start, declared=len(CONTENT))(handler)
            handler.wfile.flush()
        done.wait(20)

    server.replies["/a"] = reply
    try:
        with pytest.raises(ConnectionError, match="timed out"):
            download(remote(f"{server.url}/a"), tmp_path, timeout=0.1)
    finally:
        done.set()


def test_crawling_server_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transfer, "SLOWEST", (0.05, 1 << 16))
    done = threading.Event()

    def reply(handler: BaseHTTPRequestHandler) -> None:
        sending(b"", declared=len(CONTENT))(handler)
        while not done.wait(0.02):
            try:
                handler.wfile.write(b"\0")
            except OSError:
                return

    try:
        with pytest.raises(ConnectionError, match="less than 65536 bytes came within 0 s"):
            store(server, tmp_path, reply)
    finally:
        done.set()


def test_no_network(tmp_path: Path, refused_url: str, waits: list[float]) -> None:
    with pytest.raises(ConnectionError, match=r"refused.* by hand and put it into ") as caught:
        download(remote(f"{refused_url}/a"), tmp_path / "cache")
    assert str(tmp_path / "cache") in str(caught.value)
    assert waits == []
    assert listing(tmp_path / "cache") == []


def test_unknown_host(tmp_path: Path, waits: list[float]) -> None:
    with pytest.raises(ConnectionError, match="by hand"):
        download(remote("http://host.invalid/a"), tmp_path / "cache")
    assert waits == []


# addresses


def redirecting(address: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", address)
        handler.end_headers()

    return reply


def test_redirects_are_followed_with_the_range(server: Server, tmp_path: Path) -> None:
    server.replies["/b"] = redirecting(f"{server.url}/c")
    server.replies["/c"] = file = File(CONTENT)
    file.cuts = [HALF]
    store(server, tmp_path, redirecting("/b"))
    check_stored(tmp_path)
    assert server.asked == ["/a", "/b", "/c"] * 2
    assert file.ranges == ["", f"bytes={HALF}-"]


def test_redirects_end(server: Server, tmp_path: Path) -> None:
    for step in range(10):
        server.replies[f"/{step}"] = redirecting(f"/{step + 1}")
    with pytest.raises(ConnectionError, match="HTTP Error 302"):
        store(server, tmp_path, redirecting("/0"))
    assert len(server.asked) == 1 + _transfer.MOST_REDIRECTS


@pytest.mark.parametrize("address", ["http://localhost/a", "file:///etc/passwd", "ftp://127.0.0.1/a", "//localhost/a"])
def test_redirects_to_elsewhere_are_refused(server: Server, tmp_path: Path, address: str) -> None:
    with pytest.raises(ConnectionError, match=r"expected http or https from 127\.0\.0\.1, got the address|not allowed"):
        store(server, tmp_path, redirecting(address))
    assert server.asked == ["/a"]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "data:,abc", "/etc/passwd", "http:///a"])
def test_addresses_are_of_the_web(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConnectionError, match="expected http or https"):
        download(remote(url), tmp_path / "cache")


def test_secure_addresses_stay_secure() -> None:
    with pytest.raises(_transfer._NoAnswerError, match="expected https from host, got the address http://host/b"):
        _transfer._check_address("http://host/b", "https://host/a", remote("https://host/a"))
    _transfer._check_address("https://host/b", "http://host/a", remote("https://host/a"))


# the disk


def test_read_only_cache_is_found_before_the_download(server: Server, tmp_path: Path) -> None:
    server.replies["/a"] = File(CONTENT)
    tmp_path.chmod(0o555)
    folder = tmp_path
    if os.access(tmp_path, os.W_OK):  # modes do not bind the superuser, but this file system does
        folder = Path("/proc/self")
        if not folder.is_dir():
            pytest.skip("nothing is read-only for the superuser here")
    try:
        with pytest.raises(OSError, match=str(folder)):
            download(remote(f"{server.url}/a"), folder)
    finally:
        tmp_path.chmod(0o755)
    assert server.asked == []


def test_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises((NotADirectoryError, FileExistsError), match=str(tmp_path / "cache")):
        store(server, tmp_path, File(CONTENT))
    assert server.asked == []


def test_full_disk_is_unchanged_and_can_be_continued(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = File(CONTENT)
    append = _part.Part.append

    def full(part: _part.Part, chunk: bytes) -> None:
        append(part, chunk)
        if part.size > HALF:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_part.Part, "append", full)
        with pytest.raises(OSError, match="No space left") as caught:
            store(server, tmp_path, file)
    assert caught.value.errno == errno.ENOSPC
    assert len(server.asked) == 1
    size = len(left(tmp_path))
    store(server, tmp_path, file)
    check_stored(tmp_path)
    assert file.ranges[1:] in ([f"bytes={size}-"], [])


def test_file_is_synced_before_it_gets_its_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        store(server, tmp_path, File(CONTENT, {}))
    assert listing(tmp_path / "cache") == ["net-12345678.pth.part"]


# several at once


def test_part_that_goes_between_opening_and_locking(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder gave it up at that moment; what is locked is no longer the file of this name."""
    lock, calls = _part._lock, []

    def late(file: BinaryIO) -> bool:
        calls.append(file)
        if len(calls) == 1:
            (tmp_path / "cache" / "net-12345678.pth.part").unlink()
        return lock(file)

    monkeypatch.setattr(_part, "_lock", late)
    store(server, tmp_path, File(CONTENT))
    check_stored(tmp_path)
    assert len(calls) == 2


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(file: object) -> bool:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_part, "_lock", refuse)
    file = File(CONTENT)
    file.cuts = [HALF]
    store(server, tmp_path, file)
    assert file.ranges == ["", f"bytes={HALF}-"]
    assert (tmp_path / "cache" / "net-12345678.pth").read_bytes() == CONTENT
    with pytest.raises(DataError):
        download(replace(remote(f"{server.url}/a", content=OTHER), name="b"), tmp_path / "cache")
    assert [name for name in listing(tmp_path / "cache") if name.startswith(".")] == []


def test_threads_at_once(server: Server, tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            store(server, tmp_path, File(CONTENT))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert server.asked == ["/a"]
    check_stored(tmp_path)


PROCESS = """
import sys
from pathlib import Path
from cnnrs import _part
from cnnrs._transfer import RemoteFile, download
url, folder, size, digest, stall = sys.argv[1:]
_part.STALL = float(stall)
print("ready", flush=True)
sys.stdin.readline()
download(RemoteFile("net-12345678.pth", (url,), int(size), int(size), digest), Path(folder))
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Start]:
    """Start a process that downloads CONTENT when told to; none outlives the test."""
    processes: list[subprocess.Popen[str]] = []

    def run(stall: float = 60.0) -> subprocess.Popen[str]:
        arguments = [f"{server.url}/a", tmp_path / "cache", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), stall]
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def go(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def check_done(process: subprocess.Popen[str]) -> None:
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0, errors


def until(condition: Callable[[], bool]) -> None:
    """Wait for something another process does."""
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.01)


class Hanging:
    """A reply that sends half of CONTENT and then waits for `goes_on`; requests for the rest are answered at once."""

    def __init__(self) -> None:
        self.file = File(CONTENT)
        self.goes_on = threading.Event()

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        if "Range" in handler.headers:
            self.file(handler)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.send_header("ETag", self.file.headers["ETag"])
        handler.end_headers()
        handler.wfile.write(CONTENT[:HALF])
        self.goes_on.wait(60)
        with suppress(OSError):  # the other end may be dead
            handler.wfile.write(CONTENT[HALF:])


def size_of_part(tmp_path: Path) -> int:
    path = tmp_path / "cache" / "net-12345678.pth.part"
    return path.stat().st_size if path.exists() else -1


def test_two_processes_at_once(server: Server, tmp_path: Path, start: Start) -> None:
    hanging = Hanging()
    server.replies["/a"] = hanging
    first, second = start(), start()
    go(first, second)
    until(lambda: size_of_part(tmp_path) == HALF)
    time.sleep(0.2)  # the other one has found the lock by now, or finds the file later
    hanging.goes_on.set()
    check_done(first)
    check_done(second)
    assert server.asked == ["/a"]
    check_stored(tmp_path)


def test_killed_downloader_leaves_what_can_be_continued(server: Server, tmp_path: Path, start: Start) -> None:
    hanging = Hanging()
    server.replies["/a"] = hanging
    process = start()
    go(process)
    try:
        until(lambda: size_of_part(tmp_path) == HALF)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        assert left(tmp_path) == CONTENT[:HALF]
        store(server, tmp_path, hanging)
    finally:
        hanging.goes_on.set()
    check_stored(tmp_path)
    assert hanging.file.ranges == [f"bytes={HALF}-"]


def test_who_waits_takes_over_from_who_dies(server: Server, tmp_path: Path, start: Start) -> None:
    hanging = Hanging()
    server.replies["/a"] = hanging
    first, second = start(), start()
    go(first)
    try:
        until(lambda: size_of_part(tmp_path) == HALF)
        go(second)
        time.sleep(0.2)
        assert second.poll() is None
        first.kill()
        check_done(second)
    finally:
        hanging.goes_on.set()
    check_stored(tmp_path)
    assert hanging.file.ranges == [f"bytes={HALF}-"]


def test_who_waits_does_not_wait_for_ever(server: Server, tmp_path: Path, start: Start) -> None:
    """The holder of the lock is stopped; the other one downloads under a name of its own."""
    hanging = Hanging()
    server.replies["/a"] = hanging
    first, second = start(), start(stall=0.2)
    go(first)
    until(lambda: size_of_part(tmp_path) == HALF)
    first.send_signal(signal.SIGSTOP)
    server.replies["/a"] = File(CONTENT)
    go(second)
    try:
        check_done(second)
        assert (tmp_path / "cache" / "net-12345678.pth").read_bytes() == CONTENT
        assert size_of_part(tmp_path) == HALF  # and spares the other's
    finally:
        first.send_signal(signal.SIGCONT)
        hanging.goes_on.set()
    check_done(first)
    check_stored(tmp_path)
