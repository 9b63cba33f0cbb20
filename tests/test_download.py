"""Downloading from a real server on this machine: mirrors that fail in every way, the cache, two processes at once."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from cnnrs import DataError, datasets
from cnnrs._download import cache_folder, fetch
from cnnrs.datasets.mnist import Part, Source
from idx_files import compress, encode_idx
from web_server import Server, failing, sending

# `cnnrs.datasets.mnist` is the function
mnist_module = import_module("cnnrs.datasets.mnist")


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no setting of this machine in: no proxy, no data, an empty cache."""
    for name in ("CNNRS_DATA", "CNNRS_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CNNRS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def refused_url() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def listing(folder: Path) -> list[str]:
    """Give all that is in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def anything(content: bytes, url: str) -> bytes:
    """Accept every content."""
    return content


def only(right: bytes) -> Callable[[bytes, str], bytes]:
    """Accept one content only."""

    def accept(content: bytes, url: str) -> bytes:
        if content != right:
            msg = f"{url}: expected other content"
            raise DataError(msg)
        return content

    return accept


# fetch


def test_file_is_stored_and_the_folder_made(server: Server, tmp_path: Path) -> None:
    server.replies["/a"] = sending(b"content")
    target = tmp_path / "new" / "folder" / "a"
    assert fetch([f"{server.url}/a"], target, anything, max_bytes=7) == b"content"
    assert target.read_bytes() == b"content"
    assert listing(target.parent) == ["a"]


BAD_REPLIES = {
    "error 500": (failing(500), "HTTP Error 500", ConnectionError),
    "error 404": (failing(404), "HTTP Error 404", ConnectionError),
    "not http": (lambda handler: handler.wfile.write(b"\0" * 100), "http", ConnectionError),
    "hangs up": (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), "http", ConnectionError),
    "cut short": (sending(b"conte", declared=7), "expected 7 bytes, got 5", DataError),
    "cut short, length not announced": (sending(b"conte", declared=None), "expected other content", DataError),
    "wrong content": (sending(b"CONTENT"), "expected other content", DataError),
    "empty": (sending(b""), "expected other content", DataError),
    "announced too long": (
        sending(b"content", declared=1 << 40),
        "at most 10 bytes, 1099511627776 are announced",
        DataError,
    ),
    "too long": (sending(b"content" * 1000, declared=None), "expected at most 10 bytes, got more", DataError),
}


@pytest.mark.parametrize("case", BAD_REPLIES)
def test_bad_mirror_alone_is_an_error_and_leaves_nothing(server: Server, tmp_path: Path, case: str) -> None:
    reply, text, kind = BAD_REPLIES[case]
    server.replies["/a"] = reply
    target = tmp_path / "data" / "a"
    with pytest.raises(kind) as caught:
        fetch([f"{server.url}/a"], target, only(b"content"), max_bytes=10)
    assert text in str(caught.value)
    assert f"{server.url}/a" in str(caught.value)
    assert listing(target.parent) == []


@pytest.mark.parametrize("case", BAD_REPLIES)
def test_next_mirror_is_tried(server: Server, tmp_path: Path, case: str) -> None:
    server.replies["/bad"] = BAD_REPLIES[case][0]
    server.replies["/good"] = sending(b"content")
    target = tmp_path / "a"
    urls = [f"{server.url}/bad", f"{server.url}/good", f"{server.url}/never"]
    assert fetch(urls, target, only(b"content"), max_bytes=10) == b"content"
    assert target.read_bytes() == b"content"
    assert server.asked == ["/bad", "/good"]


def test_no_network(tmp_path: Path, refused_url: str) -> None:
    with pytest.raises(
        ConnectionError, match=rf"a: expected an answer from one of 2 mirrors: {refused_url}/1: .*refused.*; "
    ):
        fetch([f"{refused_url}/1", f"{refused_url}/2"], tmp_path / "a", anything, max_bytes=10)
    assert listing(tmp_path) == []


def test_wrong_content_outweighs_an_unreachable_mirror(server: Server, tmp_path: Path, refused_url: str) -> None:
    server.replies["/a"] = sending(b"CONTENT")
    with pytest.raises(DataError, match=r"expected other content; .*refused"):
        fetch([f"{server.url}/a", f"{refused_url}/a"], tmp_path / "a", only(b"content"), max_bytes=10)


def test_silent_mirror_is_given_up(server: Server, tmp_path: Path) -> None:
    done = threading.Event()

    def reply(handler: BaseHTTPRequestHandler) -> None:
        done.wait(10)

    server.replies["/a"] = reply
    try:
        with pytest.raises(ConnectionError, match="timed out"):
            fetch([f"{server.url}/a"], tmp_path / "a", anything, max_bytes=10, timeout=0.1)
    finally:
        done.set()


def test_slow_mirror_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnrs._download.PATIENCE", 0.0)
    server.replies["/a"] = sending(b"content")
    with pytest.raises(ConnectionError, match="not done after 0 s"):
        fetch([f"{server.url}/a"], tmp_path / "a", anything, max_bytes=10)


def test_disk_error_is_unchanged(server: Server, tmp_path: Path) -> None:
    server.replies["/a"] = sending(b"content")
    (tmp_path / "file").touch()
    with pytest.raises((NotADirectoryError, FileExistsError)):
        fetch([f"{server.url}/a"], tmp_path / "file" / "folder" / "a", anything, max_bytes=10)
    assert server.asked == []


def test_read_only_cache_is_an_os_error(server: Server, tmp_path: Path) -> None:
    server.replies["/a"] = sending(b"content")
    folder = tmp_path
    tmp_path.chmod(0o555)
    if os.access(tmp_path, os.W_OK):  # modes do not bind the superuser, but this file system does
        folder = Path("/sys")
        if not folder.is_dir():
            pytest.skip("nothing is read-only for the superuser here")
    try:
        with pytest.raises(OSError, match=str(folder)) as caught:
            fetch([f"{server.url}/a"], folder / "new" / "a", anything, max_bytes=10)
    finally:
        tmp_path.chmod(0o755)
    assert caught.value.errno in {errno.EACCES, errno.EPERM, errno.EROFS}
    assert server.asked == []


def test_read_only_folder_that_is_there_is_found_before_the_download(server: Server, tmp_path: Path) -> None:
    """Making the folder is no proof: it may exist, on a file system that takes no files."""
    server.replies["/a"] = sending(b"content")
    folder = tmp_path
    tmp_path.chmod(0o555)
    if os.access(tmp_path, os.W_OK):
        folder = Path("/proc/self")
        if not folder.is_dir():
            pytest.skip("nothing is read-only for the superuser here")
    try:
        with pytest.raises(OSError, match=str(folder)):
            fetch([f"{server.url}/a"], folder / "a", anything, max_bytes=10)
    finally:
        tmp_path.chmod(0o755)
    assert server.asked == []


CACHE = """
import sys
import numpy as np
import cnnrs
from cnnrs import Trainer, datasets, functional as F, models, optim
from cnnrs.cli import main

model = models.lenet5()
x, labels = np.ones((4, 28, 28, 1), np.float32), np.arange(4)
model(x)
Trainer(model, optim.SGD(lr=0.1)).step(x, labels)
try:
    datasets.mnist(download=False)
except FileNotFoundError as error:
    print("missing:", error)
try:
    datasets.mnist()
except OSError as error:
    print("refused:", type(error).__name__, error)
main(["doctor"])
assert F.relu(x).all()
"""


def test_a_cache_that_cannot_be_had_stops_downloads_only(
    tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Its place is below a regular file, where not even the superuser can make a folder."""
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "cache"
    result = run_python(CACHE, env={"CNNRS_CACHE": str(cache), "CNNRS_DATA": None, "CNNRS_OFFLINE": None})
    assert result.returncode == 0, result.stderr
    assert f"missing: mnist: train-images-idx3-ubyte.gz not found in {cache}/mnist" in result.stdout
    refused = next(line for line in result.stdout.splitlines() if line.startswith("refused:"))
    assert refused.split()[1] in {"NotADirectoryError", "FileExistsError"}
    assert str(tmp_path / "file") in refused
    assert f"{cache}" in result.stdout.partition("data\n")[2]  # what `doctor` says
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_of_a_read_only_cache_are_read(small: Server, tmp_path: Path) -> None:
    fill(tmp_path / "cache" / "mnist", DIGITS)
    folders = [tmp_path / "cache" / "mnist", tmp_path / "cache"]
    for folder in folders:
        folder.chmod(0o555)
    try:
        check_small(datasets.mnist(), DIGITS)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert small.asked == []


def test_full_disk_is_unchanged_and_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    server.replies["/a"] = sending(b"content")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fetch([f"{server.url}/a"], tmp_path / "a", anything, max_bytes=10)
    assert listing(tmp_path) == []


def test_network_modules_are_imported_only_when_needed(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    program = "import sys, cnnrs.datasets; print({'urllib.request', 'http.client', 'ssl'} & set(sys.modules))"
    assert run_python(program).stdout == "set()\n"


# mnist and fashion_mnist, with sources of a few images


def contents(offset: int) -> dict[str, bytes]:
    """Give four small uncompressed files in the form of MNIST's."""
    files = {}
    for half, count in (("train", 6), ("t10k", 3)):
        images = (np.arange(count * 16).reshape(count, 4, 4) + offset).astype(np.uint8)
        files[f"{half}-images-idx3-ubyte"] = encode_idx(images)
        files[f"{half}-labels-idx1-ubyte"] = encode_idx((np.arange(count) + offset).astype(np.uint8))
    return files


DIGITS, CLOTHES = contents(0), contents(1)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def shrink(source: Source, files: dict[str, bytes], mirrors: tuple[str, ...]) -> Source:
    """Give `source` with these files and mirrors instead of its own."""

    def shrink_part(part: Part) -> Part:
        content = files[part.name]
        shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, 4 + 4 * content[3], 4))
        own = {"md5": md5(content)} if part.md5 else {"original_md5": md5(compress(content))}
        return Part(part.name, shape, len(content), **own)

    first, second, third, fourth = map(shrink_part, source.parts)
    return replace(source, mirrors=mirrors, parts=(first, second, third, fourth))


@pytest.fixture
def small(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with small MNIST under /good, small Fashion-MNIST under /clothes, and nothing under /broken."""
    digits = shrink(mnist_module.MNIST, DIGITS, (f"{server.url}/broken/", f"{server.url}/good/"))
    clothes = shrink(mnist_module.FASHION_MNIST, CLOTHES, (f"{server.url}/clothes/",))
    monkeypatch.setattr(mnist_module, "MNIST", digits)
    monkeypatch.setattr(mnist_module, "FASHION_MNIST", clothes)
    for name in DIGITS:
        server.replies[f"/good/{name}.gz"] = sending(compress(DIGITS[name]))
        server.replies[f"/clothes/{name}.gz"] = sending(compress(CLOTHES[name]))
    return server


def fill(folder: Path, files: dict[str, bytes], packed: bool = True) -> None:
    """Write data files into a folder."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(compress(content) if packed else content)


def check_small(halves: tuple[datasets.Dataset, datasets.Dataset], files: dict[str, bytes]) -> None:
    """Check that a small data set has the content of `files`."""
    for half, name, count in zip(halves, ("train", "t10k"), (6, 3), strict=True):
        assert half.images.shape == (count, 4, 4, 1)
        assert half.images.tobytes() == files[f"{name}-images-idx3-ubyte"][16:]
        assert half.labels.dtype == np.int64
        assert bytes(half.labels.tolist()) == files[f"{name}-labels-idx1-ubyte"][8:]
        assert len(half.classes) == 10


def test_downloads_once_into_the_cache(small: Server, tmp_path: Path) -> None:
    check_small(datasets.mnist(), DIGITS)
    assert listing(tmp_path / "cache" / "mnist") == sorted(f"{name}.gz" for name in DIGITS)
    asked = len(small.asked)
    assert asked == 8  # the first mirror has none of the four
    check_small(datasets.mnist(), DIGITS)
    check_small(datasets.mnist(download=False), DIGITS)
    assert len(small.asked) == asked


def test_downloads_into_root_if_given(small: Server, tmp_path: Path) -> None:
    check_small(datasets.fashion_mnist(tmp_path / "here"), CLOTHES)
    assert listing(tmp_path / "here" / "fashion_mnist") == sorted(f"{name}.gz" for name in CLOTHES)
    assert not (tmp_path / "cache").exists()


def test_only_what_is_missing_is_downloaded(small: Server, tmp_path: Path) -> None:
    fill(tmp_path / "cache" / "mnist", DIGITS)
    (tmp_path / "cache" / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    check_small(datasets.mnist(), DIGITS)
    assert small.asked == ["/broken/t10k-labels-idx1-ubyte.gz", "/good/t10k-labels-idx1-ubyte.gz"]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["root/mnist", "root", "data/mnist", "cache/mnist"])
def test_finds_files_that_are_here(
    small: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, packed: bool
) -> None:
    monkeypatch.setenv("CNNRS_DATA", str(tmp_path / "data"))
    fill(tmp_path / place, DIGITS, packed)
    check_small(datasets.mnist(tmp_path / "root" if place.startswith("root") else None), DIGITS)
    assert small.asked == []


def test_root_comes_before_data_before_cache(small: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNRS_DATA", str(tmp_path / "data"))
    fill(tmp_path / "cache" / "fashion_mnist", contents(2))
    check_small(datasets.fashion_mnist(tmp_path / "root", download=False), contents(2))
    fill(tmp_path / "data" / "fashion_mnist", contents(3))
    check_small(datasets.fashion_mnist(tmp_path / "root", download=False), contents(3))
    fill(tmp_path / "root" / "fashion_mnist", CLOTHES)
    check_small(datasets.fashion_mnist(tmp_path / "root", download=False), CLOTHES)


@pytest.mark.parametrize("load", [datasets.mnist, datasets.fashion_mnist])
@pytest.mark.parametrize("how", ["variable", "argument"])
def test_offline_names_the_folders_and_the_way_out(
    small: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[..., object], how: str
) -> None:
    monkeypatch.setenv("CNNRS_DATA", str(tmp_path / "data"))
    if how == "variable":
        monkeypatch.setenv("CNNRS_OFFLINE", "1")
    with pytest.raises(FileNotFoundError) as caught:
        load(tmp_path / "root", download=how == "variable")
    text = str(caught.value)
    for folder in ("root", "data", "cache"):
        assert str(tmp_path / folder / load.__name__) in text
    assert ("CNNRS_OFFLINE" if how == "variable" else "download=False") in text
    assert f"{small.url}/" in text
    assert small.asked == []


def test_offline_variable_may_be_off(small: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNRS_OFFLINE", "0")
    check_small(datasets.mnist(), DIGITS)


def test_wrong_hash_from_all_mirrors(small: Server, tmp_path: Path) -> None:
    right = DIGITS["train-images-idx3-ubyte"]
    wrong = right[:-1] + b"\xff"
    for mirror in ("broken", "good"):
        small.replies[f"/{mirror}/train-images-idx3-ubyte.gz"] = sending(compress(wrong))
    with pytest.raises(DataError, match=rf"MD5 of the uncompressed content: expected {md5(right)}, found {md5(wrong)}"):
        datasets.mnist()
    assert listing(tmp_path / "cache" / "mnist") == []


def test_download_of_fashion_mnist_must_be_the_published_file(small: Server, tmp_path: Path) -> None:
    content = CLOTHES["train-images-idx3-ubyte"]
    small.replies["/clothes/train-images-idx3-ubyte.gz"] = sending(content)
    with pytest.raises(DataError, match="MD5 of the compressed file: expected"):
        datasets.fashion_mnist()
    assert listing(tmp_path / "cache" / "fashion_mnist") == []


def test_recompressed_mnist_is_accepted_from_a_mirror(small: Server) -> None:
    name = "train-images-idx3-ubyte"
    small.replies[f"/broken/{name}.gz"] = sending(DIGITS[name])
    check_small(datasets.mnist(), DIGITS)


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "wrong pixel": ("train-images-idx3-ubyte", lambda c: c[:-1] + b"\xff", "MD5 of the uncompressed content"),
    "cut": ("train-images-idx3-ubyte", lambda c: c[:-1], "truncated"),
    "longer": ("t10k-labels-idx1-ubyte", lambda c: c + b"\0", "trailing"),
    "other count": (
        "t10k-labels-idx1-ubyte",
        lambda c: encode_idx(np.zeros(2, np.uint8)),
        "shape: expected (3,), found (2,)",
    ),
    "larger": (
        "t10k-labels-idx1-ubyte",
        lambda c: encode_idx(np.zeros(99, np.uint8)),
        "at most 11 bytes in all, found 107",
    ),
    "other type": ("t10k-labels-idx1-ubyte", lambda c: c[:2] + b"\x09" + c[3:], "type: expected uint8, found int8"),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_file_that_is_here_is_an_error_that_names_it(
    small: Server, tmp_path: Path, case: str, packed: bool
) -> None:
    name, damage, text = DAMAGES[case]
    fill(tmp_path / "cache" / "mnist", DIGITS | {name: damage(DIGITS[name])}, packed)
    with pytest.raises(DataError) as caught:
        datasets.mnist()
    assert text in str(caught.value)
    assert str(tmp_path / "cache" / "mnist" / name) in str(caught.value)
    assert small.asked == []


def test_label_out_of_range(small: Server, tmp_path: Path) -> None:
    name = "train-labels-idx1-ubyte"
    fill(tmp_path / "cache" / "fashion_mnist", CLOTHES | {name: CLOTHES[name][:-2] + b"\x0a\x01"})
    with pytest.raises(DataError, match="label at offset 12: expected 0 to 9, found 10"):
        datasets.fashion_mnist()


def test_mnist_is_not_taken_for_fashion_mnist(small: Server, tmp_path: Path) -> None:
    fill(tmp_path / "root", DIGITS)
    with pytest.raises(DataError, match="expected the file of Fashion-MNIST, found MNIST's file of the same name"):
        datasets.fashion_mnist(tmp_path / "root")


PROCESS = """
import sys
from importlib import import_module
from cnnrs import datasets
from test_download import DIGITS, check_small, mnist_module, shrink
mnist_module.MNIST = shrink(mnist_module.MNIST, DIGITS, (sys.argv[1],))
check_small(datasets.mnist(), DIGITS)
"""


def test_two_processes_at_once(small: Server, tmp_path: Path) -> None:
    together = threading.Barrier(2, timeout=20)
    name = "train-images-idx3-ubyte"

    def reply(handler: BaseHTTPRequestHandler) -> None:
        together.wait()  # both have found nothing and ask
        sending(compress(DIGITS[name]))(handler)

    small.replies[f"/good/{name}.gz"] = reply
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    command = [sys.executable, "-c", PROCESS, f"{small.url}/good/"]
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert listing(tmp_path / "cache" / "mnist") == sorted(f"{name}.gz" for name in DIGITS)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("CNNRS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "cnnrs"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "cnnrs"


def test_published_sources_are_addresses_of_whole_folders() -> None:
    for source in mnist_module.SOURCES:
        assert len(source.mirrors) >= 2
        assert all(mirror.startswith(("https://", "http://")) and mirror.endswith("/") for mirror in source.mirrors)
        assert [part.size for part in source.parts] == [47040016, 60008, 7840016, 10008]
        for part in source.parts:
            assert part.size == 4 + 4 * len(part.shape) + int(np.prod(part.shape))
            assert len(part.md5 or part.original_md5) == 32
