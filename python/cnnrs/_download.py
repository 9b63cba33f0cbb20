"""Where downloaded data are kept, and how they get there.

A file is received into memory under a size limit, checked, and only then written, under a temporary name that is
renamed at the end: whoever looks, also another process that downloads at the same time, sees no file or a whole and
checked one.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import TypeVar

from cnnrs._core import DataError
from cnnrs._files import atomic_write

T = TypeVar("T")

TIMEOUT = 20.0  # seconds without a byte
PATIENCE = 900.0  # seconds for one file from one mirror
_CHUNK = 1 << 16


def cache_folder() -> Path:
    """Give the folder for downloads: `$CNNRS_CACHE`, else `cnnrs` in `$XDG_CACHE_HOME`, else in `~/.cache`."""
    if own := os.environ.get("CNNRS_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache").expanduser()
    return Path(shared, "cnnrs")


def is_offline() -> bool:
    """Tell whether `CNNRS_OFFLINE` forbids the network: any value but the empty one and `0` does."""
    return os.environ.get("CNNRS_OFFLINE", "") not in {"", "0"}


def fetch(
    urls: Sequence[str],
    target: Path,
    accept: Callable[[bytes, str], T],
    *,
    max_bytes: int,
    timeout: float = TIMEOUT,
) -> T:
    """Store the first acceptable answer of several mirrors as `target`.

    Args:
        urls: The addresses of the file, tried in order.
        target: Where to store it; the folder is made. It never holds anything that was not accepted.
        accept: Called with content and address; raises DataError to refuse it.
        max_bytes: A longer answer is refused without being received to its end.
        timeout: Seconds to wait for a connection or for the next bytes.

    Returns:
        What `accept` gave.

    Raises:
        DataError: At least one mirror gave wrong content and none gave the right one.
        ConnectionError: No mirror gave any content.
        OSError: The disk refused folder or file, unchanged.
    """
    _make_writable(target.parent)
    refusals: list[str] = []
    wrong: DataError | None = None
    for url in urls:
        try:
            content = _receive(url, max_bytes, timeout)
            result = accept(content, url)
        except DataError as error:
            wrong = error
            refusals.append(str(error))
        except _NetworkError as error:
            refusals.append(str(error))
        else:
            with atomic_write(target) as file:
                file.write(content)
            return result
    reasons = "; ".join(refusals)
    if wrong is not None:
        msg = f"{target.name}: expected the right content from one of {len(urls)} mirrors: {reasons}"
        raise DataError(msg) from wrong
    advice = f"put the file into {target.parent} by hand or try again later"
    msg = f"{target.name}: expected an answer from one of {len(urls)} mirrors: {reasons} ({advice})"
    raise ConnectionError(msg)


def _make_writable(folder: Path) -> None:
    """Make the folder and a file in it that is gone at once, to know before a download that it can be stored."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".{os.urandom(8).hex()}.part"
    with probe.open("xb"):
        pass
    probe.unlink()


class _NetworkError(Exception):
    """A mirror gave no content; the text names it and says why."""


def _receive(url: str, max_bytes: int, timeout: float) -> bytes:
    """Give the whole answer of one address, or raise _NetworkError (no answer) or DataError (too long or cut short)."""
    from http.client import HTTPException, IncompleteRead  # the network modules cost 30 ms to import
    from urllib.request import Request, urlopen

    content = bytearray()
    limit = monotonic() + PATIENCE
    try:
        with urlopen(Request(url, headers={"User-Agent": "cnnrs"}), timeout=timeout) as answer:
            declared = answer.length
            if declared is not None and declared > max_bytes:
                msg = f"{url}: expected at most {max_bytes} bytes, {declared} are announced"
                raise DataError(msg)
            while chunk := answer.read(_CHUNK):
                content += chunk
                if len(content) > max_bytes:
                    msg = f"{url}: expected at most {max_bytes} bytes, got more"
                    raise DataError(msg)
                if monotonic() > limit:
                    msg = f"{url}: not done after {PATIENCE:.0f} s"
                    raise _NetworkError(msg)
    except IncompleteRead as error:
        msg = f"{url}: cut short after {len(content)} bytes"
        raise DataError(msg) from error
    except (OSError, HTTPException) as error:  # nothing here touches the disk
        msg = f"{url}: {error}"
        raise _NetworkError(msg) from error
    if declared is not None and len(content) != declared:
        msg = f"{url}: expected {declared} bytes, got {len(content)}"
        raise DataError(msg)
    return bytes(content)
