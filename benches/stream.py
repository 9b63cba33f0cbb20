"""The rate at which the machine's memory streams, with NumPy's vector loops: what batch 1 of a wide layer runs into."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_BYTES = 512 << 20


def measure(threads: int, size: int = _BYTES, repeats: int = 5) -> dict[str, float]:
    """Best rate of reading (maximum of an array) and of copying (both sides counted), GB/s.

    Args:
        threads: Each has its part of the array.
        size: Bytes of the array; several times the last cache.
        repeats: Passes, of which the fastest counts.
    """
    parts = [np.ones(max(1, size // 4 // threads), np.float32) for _ in range(threads)]
    copies = [np.empty_like(part) for part in parts]
    total = sum(part.nbytes for part in parts)

    def copy(index: int) -> None:
        np.copyto(copies[index], parts[index])

    def read(index: int) -> None:
        parts[index].max()

    with ThreadPoolExecutor(threads) as pool:

        def best(task: Callable[[int], None]) -> float:
            seconds = []
            for _ in range(repeats + 1):
                start = time.perf_counter()
                list(pool.map(task, range(threads)))
                seconds.append(time.perf_counter() - start)
            return min(seconds[1:])

        return {"read": 1e-9 * total / best(read), "copy": 2e-9 * total / best(copy)}
