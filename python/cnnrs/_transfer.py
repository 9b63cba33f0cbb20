"""Large files from the network to the disk.

A file is stored as it arrives, in a part (`cnnrs._part`) that an interrupted download leaves behind and the next one
continues. It gets its name only when its size and its hash are right: whoever looks sees no file or a whole and checked
one. No length that a server announces is believed beyond what is known of the file.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from cnnrs._core import DataError
from cnnrs._download import TIMEOUT
from cnnrs._part import Origin, Part, claim
from cnnrs._progress import DownloadProgress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message
    from http.client import HTTPResponse
    from pathlib import Path

ATTEMPTS = 3  # attempts in a row that bring nothing
MOST_ATTEMPTS = 20
BACK_OFF = 0.5  # seconds after an attempt that brought nothing, twice as many after each more in a row
LONGEST_WAIT = 10.0  # seconds, also where a server asks for more
SLOWEST = (60.0, 1 << 16)  # seconds, and the bytes that must come within them
MOST_REDIRECTS = 5
_CHUNK = 1 << 18
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class RemoteFile:
    """What is known of a file before it is here.

    Attributes:
        name: Its name on this machine.
        urls: Its addresses; nothing is asked of other hosts.
        min_bytes: The least size it can have.
        max_bytes: The greatest size it can have.
        digest: Its hash in hex, or how that begins.
        algorithm: Which hash, in hashlib's name.
    """

    name: str
    urls: tuple[str, ...]
    min_bytes: int
    max_bytes: int
    digest: str
    algorithm: str = "sha256"


def download(file: RemoteFile, folder: Path, *, timeout: float = TIMEOUT, verbose: bool | None = None) -> Path:
    """Store a file in a folder, continuing an earlier download, and give its path.

    Several processes may ask for the same file: one downloads, the others wait for it and go on in its place if it
    ends early. A file of this name that is there is used if it is right and replaced if not.

    Args:
        file: What to download and how it is known to be right.
        folder: Where to store it; it is made.
        timeout: Seconds to wait for a connection or for the next bytes.
        verbose: False for silence; otherwise a bar is shown if standard error is a terminal.

    Raises:
        DataError: an address gave something else, and none gave the file.
        ConnectionError: no address gave anything; the text says where to put the file by hand.
        OSError: the disk refused folder or file, unchanged.
    """
    target = folder / file.name
    with DownloadProgress(file.name, file.max_bytes, verbose) as show, claim(folder, file.name, show.update) as part:
        if target.is_file() and not _refusal(target, file):
            part.discard()
            return target
        reasons, wrong = [], False
        for url in file.urls:
            try:
                _receive(file, url, part, timeout, show)
            except _NoAnswerError as error:
                reasons.append(f"{url}: {error}")
            except DataError as error:
                wrong = True
                reasons.append(f"{url}: {error}")
            else:
                part.finish(target)
                return target
        if not part.size:
            part.discard()
    text = "; ".join(reasons)
    if wrong:
        msg = f"{file.name}: expected the right content, got none: {text}"
        raise DataError(msg)
    advice = f"download it from {file.urls[0]} by hand and put it into {folder}, or try again later"
    msg = f"{file.name}: expected an answer: {text} ({advice})"
    raise ConnectionError(msg)


def check_file(path: Path, file: RemoteFile) -> None:
    """Check that a file on disk has the size and the hash that it must have.

    Raises:
        DataError: it has not; the text names what was expected and found.
        OSError: it cannot be read, unchanged.
    """
    if refusal := _refusal(path, file):
        msg = f"{path}: {refusal}"
        raise DataError(msg)


def _refusal(path: Path, file: RemoteFile) -> str:
    """Say what is wrong with a file on disk, or nothing."""
    import hashlib  # not wanted by most programs

    size = path.stat().st_size
    if not file.min_bytes <= size <= file.max_bytes:
        return _wrong_size(file, f"found {size}")
    with path.open("rb") as opened:
        found = hashlib.file_digest(opened, partial(hashlib.new, file.algorithm, usedforsecurity=False)).hexdigest()
    if found.startswith(file.digest.lower()):
        return ""
    begins = "" if len(found) == len(file.digest) else "one that begins with "
    return f"{file.algorithm.upper()}: expected {begins}{file.digest}, found {found}"


class _NoAnswerError(Exception):
    """An address gives nothing, and asking again would not help; the text says why."""


class _InterruptedError(_NoAnswerError):
    """An address gave not all; asking again may help, best after `wait` seconds."""

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


def _receive(file: RemoteFile, url: str, part: Part, timeout: float, show: DownloadProgress) -> None:
    """Bring the part to the whole and checked file.

    Raises:
        _NoAnswerError: there is no answer.
        DataError: something else came, and nothing of it is left.
    """
    for is_last in (False, True):
        if part.size < file.min_bytes:
            _receive_all(file, url, part, timeout, show)
        refusal = _refusal(part.path, file)
        if not refusal:
            return
        was_patched = part.is_patched
        part.restart(None)
        if is_last or not was_patched:  # else a single answer may still give the file
            raise DataError(refusal)


def _receive_all(file: RemoteFile, url: str, part: Part, timeout: float, show: DownloadProgress) -> None:
    """Ask until the part has a size that the file can have."""
    in_vain = 0
    for attempt in range(1, MOST_ATTEMPTS + 1):
        before = part.size
        try:
            with _answer(file, url, part, timeout) as answer:
                _store(file, url, part, answer, show)
        except _InterruptedError as error:
            in_vain = 0 if part.size > before else in_vain + 1
            if in_vain == ATTEMPTS or attempt == MOST_ATTEMPTS:
                raise
            _pause(min(max(BACK_OFF * 2**in_vain / 2, error.wait), LONGEST_WAIT))
        else:
            return


def _pause(seconds: float) -> None:
    """Wait before another attempt."""
    time.sleep(seconds)


@contextmanager
def _answer(file: RemoteFile, url: str, part: Part, timeout: float) -> Iterator[HTTPResponse]:
    """Ask for what the part lacks, and translate all that the network does wrong until the answer is read."""
    from http.client import HTTPException  # the network modules cost 30 ms to import
    from urllib.error import HTTPError, URLError
    from urllib.request import Request

    headers = {"User-Agent": "cnnrs", "Accept-Encoding": "identity"}
    if part.size and part.origin is not None and part.origin.url == url:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.origin.validator}
    _check_address(url, url, file)
    try:
        with _opener(file).open(Request(url, headers=headers), timeout=timeout) as answer:
            yield answer
    except HTTPError as error:
        with error:
            if error.code == 416:  # the part is longer than the file
                part.restart(None)
            elif error.code not in _TRY_AGAIN:
                raise _NoAnswerError(error) from error
            raise _InterruptedError(str(error), _seconds(error.headers)) from error
    except URLError as error:
        if isinstance(error.reason, TimeoutError | ConnectionResetError | BrokenPipeError):
            raise _InterruptedError(str(error.reason)) from error
        raise _NoAnswerError(error.reason) from error
    except (TimeoutError, ConnectionError, HTTPException) as error:
        raise _InterruptedError(str(error) or type(error).__name__) from error
    except _DiskError as error:
        raise error.reason from None
    except OSError as error:  # TLS
        raise _InterruptedError(str(error)) from error


class _DiskError(Exception):
    """Carries an OSError of the disk past the handlers of the network's."""

    def __init__(self, reason: OSError) -> None:
        super().__init__()
        self.reason = reason


@contextmanager
def _disk() -> Iterator[None]:
    """Mark errors of the disk."""
    try:
        yield
    except OSError as error:
        raise _DiskError(error) from None


def _store(file: RemoteFile, url: str, part: Part, answer: HTTPResponse, show: DownloadProgress) -> None:
    """Append an answer to the part, which an answer that does not continue it empties first."""
    encoding = answer.headers.get("Content-Encoding", "identity")
    if answer.status not in {200, 206} or encoding != "identity":
        msg = f"expected the plain file, got status {answer.status} and encoding {encoding[:40]}"
        raise _NoAnswerError(msg)
    continues = answer.status == 206 and _continues(url, answer.headers, part)
    if answer.status == 206 and not continues:
        with _disk():
            part.restart(None)
        msg = "the server gave another range than it was asked for"
        raise _InterruptedError(msg)
    total = None if answer.length is None else answer.length + (part.size if continues else 0)
    if total is not None and not file.min_bytes <= total <= file.max_bytes:
        if continues:
            with _disk():
                part.restart(None)
        raise DataError(_wrong_size(file, f"{total} are announced"))
    if continues:
        part.is_patched = True
    else:
        with _disk():
            part.restart(_origin(url, answer.headers))
    began, size = time.monotonic(), part.size
    while chunk := answer.read1(_CHUNK):
        if part.size + len(chunk) > file.max_bytes:
            with _disk():
                part.restart(None)
            raise DataError(_wrong_size(file, "got more"))
        with _disk():
            part.append(chunk)
        show.update(part.size, total)
        seconds, least = SLOWEST
        if time.monotonic() - began > seconds:
            if part.size - size < least:
                msg = f"less than {least} bytes came within {seconds:.0f} s"
                raise _InterruptedError(msg)
            began, size = time.monotonic(), part.size
    if part.size < (file.min_bytes if total is None else total):
        msg = f"expected {file.min_bytes if total is None else total} bytes, got {part.size}"
        raise _InterruptedError(msg)


def _continues(url: str, headers: Message, part: Part) -> bool:
    """Tell whether a partial answer begins where the part ends and belongs to the same file."""
    span = headers.get("Content-Range", "").strip().lower()
    same = part.origin is not None and _origin(url, headers) in {None, part.origin}
    return part.size > 0 and same and span.startswith(f"bytes {part.size}-")


def _origin(url: str, headers: Message) -> Origin | None:
    """Give what a download can be continued by: a strong ETag, else the date, else nothing."""
    etag, date = headers.get("ETag", ""), headers.get("Last-Modified", "")
    validator = etag if etag.startswith('"') else date
    return Origin(url, validator) if validator else None


def _opener(file: RemoteFile) -> Any:
    """Give an opener that follows few redirects, to addresses of the file's hosts only."""
    from urllib.parse import urljoin
    from urllib.request import HTTPRedirectHandler, build_opener

    class Redirects(HTTPRedirectHandler):
        max_redirections = MOST_REDIRECTS

        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            _check_address(urljoin(req.full_url, newurl), req.full_url, file)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    return build_opener(Redirects)


def _check_address(url: str, origin: str, file: RemoteFile) -> None:
    """Refuse an address that is not of the web, not of the file's hosts, or plain where its origin was secure."""
    from urllib.parse import urlsplit

    hosts = {urlsplit(known).hostname for known in file.urls} - {None}
    parts = urlsplit(url)
    schemes = {"https"} if urlsplit(origin).scheme == "https" else {"http", "https"}
    if parts.scheme not in schemes or parts.hostname not in hosts:
        allowed = f"{' or '.join(sorted(schemes))} from {', '.join(sorted(map(str, hosts)))}"
        msg = f"expected {allowed}, got the address {url[:200]}"
        raise _NoAnswerError(msg)


def _seconds(headers: Message) -> float:
    """Give the seconds of a Retry-After, 0 for none and for a date."""
    text = headers.get("Retry-After", "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0.0


def _wrong_size(file: RemoteFile, found: str) -> str:
    """Say that a size is not the file's."""
    if file.min_bytes == file.max_bytes:
        return f"expected {file.max_bytes} bytes, {found}"
    return f"expected {file.min_bytes} to {file.max_bytes} bytes, {found}"
