"""The driver's side of the worker processes: one process per library, spoken to over pipes.

A library's pool, allocator and BLAS settings cannot disturb another's this way, and the driver never has two of them
busy at once: a worker works only between a request and its answer.
"""

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parent.parent


class WorkerError(RuntimeError):
    """A worker refused a request or died; its traceback is on the terminal.

    Attributes:
        worker: Which one; None where there is none.
    """

    def __init__(self, message: str, worker: "Worker | None" = None) -> None:
        """Keep the worker."""
        super().__init__(message)
        self.worker = worker


class Worker:
    """A process that imports one library and answers requests.

    Requests and answers are one JSON object a line: `{"call": name, "arguments": {...}}` against
    `{"result": ...}` or `{"error": text}`. Arrays travel as files in the run's temporary folder.
    """

    def __init__(self, library: str, python: str, threads: int) -> None:
        """Start the process and let it import its library.

        Args:
            library: "cnnrs", "torch" or another that has a `side_LIBRARY.py`.
            python: interpreter that has the library.
            threads: size of the library's thread pool.

        Raises:
            WorkerError: the interpreter or the library cannot be had.
        """
        self.library = library
        self.imported_bytes = 0
        self._process: subprocess.Popen[str] | None = None
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        try:
            self._process = subprocess.Popen(
                [python, "-m", "benches.worker", library, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": path},
            )
        except OSError as error:
            message = f"{library}: cannot start its Python: {error}"
            raise WorkerError(message) from error
        try:
            self.imported_bytes = self.call("ready")
        except WorkerError:
            self.close()
            raise

    def call(self, name: str, /, **arguments: object) -> Any:
        """Send one request and wait for its answer.

        Raises:
            WorkerError: the worker says no, or has ended.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"call": name, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            message = f"{self.library}: the worker ended at {name!r} with exit code {self._process.wait()}"
            raise WorkerError(message, self)
        answer = json.loads(line)
        if "error" in answer:
            message = f"{self.library}: {name}: {answer['error']}"
            raise WorkerError(message, self)
        return answer["result"]

    def close(self) -> None:
        """End the process: it stops at the end of its input, or is killed after a few seconds."""
        if self._process is None:
            return
        try:
            self._process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def __enter__(self) -> Self:
        """The worker itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the worker."""
        self.close()
