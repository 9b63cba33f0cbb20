"""Switches and facts of the process: threads, algorithm, caches."""

from __future__ import annotations

from cnnrs import _args, _core
from cnnrs.nn import _cache


def set_num_threads(n: int) -> None:
    """Set the number of threads exactly, also above the number of cores; results do not depend on it.

    Args:
        n: From 1 to 256.

    Raises:
        TypeError: not an int.
        ValueError: out of range.
    """
    _core.set_num_threads(_args.integer(n, "n", "set_num_threads", 1, 256))


def get_num_threads() -> int:
    """Return the number of threads that the next call uses.

    Examples:
        >>> import cnnrs
        >>> cnnrs.get_num_threads() >= 1
        True
    """
    return _core.get_num_threads()


def set_algorithm(name: str) -> None:
    """Choose how convolutions are computed by plans made from now on.

    Args:
        name: "auto" for the fastest, "direct" for the textbook sum without transforms.

    Raises:
        ValueError: another name.
        TypeError: not a str.
    """
    if not isinstance(name, str):
        message = f"set_algorithm: name must be a str, got {_args.show(name)}"
        raise TypeError(message)
    _core.set_algorithm(name)


def show_config() -> None:
    """Print the version, the instruction set in use, the number of threads and where they come from."""
    facts = _core.config()
    width = max(map(len, facts), default=0)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in facts.items()))


def clear_cache() -> None:
    """Drop cached plans, packed weights and scratch memory of all models; the next calls plan anew."""
    _cache.clear_all()
    _core.clear_cache()
