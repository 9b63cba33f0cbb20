"""Writing files so that a reader never meets half of one."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` only when the block ends without an exception.

    The bytes go to a temporary file in the same folder, which is synced and renamed. An existing file keeps
    its mode, a link is followed, and nothing is left behind on failure. Devices and pipes are written to directly.

    Args:
        path: The file to make or replace.

    Raises:
        OSError: the folder is missing, the disk is full, and so on, unchanged.
    """
    target = Path(os.path.realpath(path))
    mode = target.stat().st_mode if target.exists() else None
    if mode is not None and not stat.S_ISREG(mode):
        with target.open("wb") as file:  # a device or a pipe; a folder is an IsADirectoryError
            yield file
        return
    temporary = target.with_name(f".{target.name[:64]}-{os.urandom(8).hex()}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(stat.S_IMODE(mode))
        temporary.replace(target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename == str(temporary):
            raise type(error)(error.errno, error.strerror, os.fspath(path)) from None
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the rename durable where the system lets folders be synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
