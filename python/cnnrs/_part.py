"""The beginning of a file that is being downloaded, on disk.

It lies beside its target as `NAME.part`, under a lock that ends with the process that holds it, whatever ends that:
one process at a time appends. `NAME.part.json` says of which answer it is the beginning; it is written before the first
byte, so that bytes without a true origin are never continued. Where files cannot be locked, and where the holder of the
lock does nothing, a part gets a name of its own, which is used once.
"""

from __future__ import annotations

import errno
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from cnnrs._files import atomic_write, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

STALL = 60.0  # seconds without a new byte after which the holder of a lock is not waited for
_POLL = 0.05  # seconds between two looks at a locked part
_MOST_JSON = 1 << 16
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class Origin(NamedTuple):
    """The answer that a part is the beginning of."""

    url: str
    validator: str  # a strong ETag or a Last-Modified, for If-Range


class Part:
    """A part that this process holds; a context manager that lets go of it.

    Attributes:
        path: Where it lies.
        size: Its bytes.
        origin: What it is the beginning of, or None if that is not known.
        is_patched: Whether its bytes came in several answers, so that they may not belong together.
    """

    def __init__(self, path: Path, file: BinaryIO, locked: bool) -> None:
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self._file = file
        self._locked = locked
        self._sidecar = path.with_name(f"{path.name}.json")
        self.origin = _read_origin(self._sidecar) if locked and self.size else None
        self.is_patched = self.size > 0

    def __enter__(self) -> Part:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._locked:
            with suppress(FileNotFoundError):
                self.path.unlink()
        _unlock(self._file, self._locked)

    def restart(self, origin: Origin | None) -> None:
        """Drop all bytes; those to come are the beginning of `origin`, or of an answer that cannot be continued."""
        self._file.truncate(0)
        self.size = 0
        self.origin = origin
        self.is_patched = False
        if self._locked:
            with suppress(FileNotFoundError):
                self._sidecar.unlink()
            if origin is not None:
                with atomic_write(self._sidecar) as file:
                    file.write(json.dumps(origin._asdict()).encode())

    def append(self, chunk: bytes) -> None:
        """Write some bytes behind the others."""
        self._file.write(chunk)  # opened for appending: always at the end
        self._file.flush()
        self.size += len(chunk)

    def discard(self) -> None:
        """Remove it."""
        for path in (self.path, self._sidecar):
            with suppress(FileNotFoundError):
                path.unlink()

    def finish(self, target: Path) -> None:
        """Make it the file `target`, at once and durably."""
        os.fsync(self._file.fileno())
        with suppress(FileNotFoundError):
            self._sidecar.unlink()
        self.path.replace(target)
        sync_folder(target.parent)


def claim(folder: Path, name: str, watch: Callable[[int], None]) -> Part:
    """Give the part of the file `name` in `folder`, both made if need be, as soon as no other process holds it.

    Args:
        folder: Where the target will be.
        name: The target's name.
        watch: Called with the part's size while another process holds it.

    Raises:
        OSError: folder or file cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.part"
    size, since = -1, time.monotonic()
    while True:
        file = path.open("a+b")
        try:
            locked = _lock(file)
        except OSError as error:
            file.close()
            if error.errno not in _NO_LOCKS:
                raise
            return _private(folder, name)
        if not locked:
            now = os.fstat(file.fileno()).st_size
            file.close()
            if now != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > STALL:
                return _private(folder, name)
            watch(now)
            time.sleep(_POLL)
        elif _is_at(file, path):
            return Part(path, file, locked=True)
        else:  # it was finished or discarded between opening and locking
            _unlock(file, locked=True)


def _private(folder: Path, name: str) -> Part:
    """Give a part that only this process knows."""
    path = folder / f".{name[:64]}-{os.urandom(8).hex()}.part"
    return Part(path, path.open("x+b"), locked=False)


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Tell whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO) -> bool:
    """Lock a file; False if another one holds the lock.

    Raises:
        OSError: with an error number of `_NO_LOCKS` if files cannot be locked here.
    """
    try:
        import fcntl
    except ImportError:
        raise OSError(errno.ENOSYS, "no file locks") from None
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _unlock(file: BinaryIO, locked: bool) -> None:
    """Close a file, unlocked before: a child that was forked meanwhile has the same lock."""
    with file:
        if locked:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_UN)


def _read_origin(path: Path) -> Origin | None:
    """Give what a sidecar says, or None if there is none or it is not one."""
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(_MOST_JSON))
        origin = Origin(**fields)
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return None
    return origin if all(isinstance(field, str) for field in origin) else None
