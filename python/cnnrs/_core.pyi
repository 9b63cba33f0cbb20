"""The Rust extension of cnnrs, as the Python side sees it (private).

Activations are NHWC and float32, convolution weights HWIO, linear weights `(in, out)`. Arrays given to
`Program.run` and `eager` may have any strides, alignment or flags; they are read in place where they are
C-contiguous, aligned and native, and copied otherwise. A wrong dtype is a `TypeError`, a wrong shape a
`ShapeError`, a number out of range a `ValueError`.
"""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt

__all__ = [
    "DataError",
    "Graph",
    "Parameter",
    "PlanCache",
    "Program",
    "ShapeError",
    "UnsupportedError",
    "WeightsError",
    "all_finite",
    "cached_ops",
    "clear_cache",
    "config",
    "eager",
    "fail_allocation",
    "failure_is_due",
    "fma_peak",
    "get_algorithm",
    "get_num_threads",
    "inject_panic",
    "isa_levels",
    "last_input_addresses",
    "random_normal",
    "random_permutation",
    "random_uniform",
    "resize",
    "set_algorithm",
    "set_isa",
    "set_num_threads",
    "start_profile",
    "stop_profile",
    "to_float32",
]

class ShapeError(ValueError):
    """Shapes that do not fit; the message holds the arithmetic."""

class WeightsError(ValueError):
    """Weights or a checkpoint that are damaged or do not fit the model."""

class DataError(ValueError):
    """A data set that is damaged or inconsistent."""

class UnsupportedError(NotImplementedError):
    """Something that cnnrs does not do (yet)."""

@final
class Parameter:
    """Storage of one float32 tensor or int64 counter: C-contiguous, aligned, versioned."""

    def __new__(cls, array: npt.NDArray[np.float32]) -> Parameter:
        """Copy a float32 array in.

        Raises:
            TypeError: the array is not float32.
        """
    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, fixed for life."""
    @property
    def size(self) -> int:
        """Number of elements."""
    @property
    def version(self) -> int:
        """Counts the writes; packed weights are keyed by it."""
    def view(self) -> npt.NDArray[np.float32]:
        """Return a live read-only view that keeps the storage alive."""
    def assign(self, array: npt.NDArray[np.float32]) -> None:
        """Copy new content in and bump the version; waits for running calls.

        Raises:
            ShapeError: the shape is another one.
            TypeError: the array is not float32.
        """

    def assign_floats(self, array: npt.NDArray[Any]) -> None:
        """Copy native floats of 16 to 64 bits in, of any strides; uint16 holds the bits of bfloat16.

        The array must not be a view of the storage.

        Raises:
            ShapeError: the shape is another one.
            TypeError: another dtype, or the storage holds integers.
        """

@final
class Graph:
    """Builder and graph in one; values are int ids. Shapes are checked when a node is added."""

    def __new__(cls) -> Graph:
        """Make an empty graph."""
    def input(self, shape: tuple[int, ...], dtype: str, name: str, batched: bool = True) -> int:
        """Add an input of dtype "float32", "uint8" or "int64"; with `batched`, axis 0 may differ at run."""
    def parameter(self, parameter: Parameter, name: str) -> int:
        """Add a parameter; the same `Parameter` twice gives the same id."""
    def constant(self, array: npt.NDArray[np.float32]) -> int:
        """Add a float32 constant, copied in."""
    def add(self, op: str, inputs: Sequence[int], attrs: dict[str, Any], name: str) -> list[int]:
        """Add a node and return the ids of its outputs.

        `name` is the dotted path of the layer ("features.0"), may be empty, and stands before error texts.

        Raises:
            ShapeError: the input shapes do not fit the op.
            TypeError: the input dtypes do not fit the op.
            ValueError: an attribute is out of range, or the op is unknown.
        """
    def info(self, value: int) -> tuple[tuple[int, ...], str]:
        """Return the shape and the dtype name of a value."""
    def batch_sizes(self, value: int) -> list[list[int] | None] | None:
        """Return for each axis of a value that follows the batch size its sizes for two other batch sizes.

        None if no axis does, or nothing is known because the graph is specific to its batch size.
        """
    @property
    def batch_specific(self) -> bool:
        """Whether the graph is good for the batch size it was traced with only."""
    def gradients(self, outputs: Sequence[int], seeds: Sequence[int | None], wrt: Sequence[int]) -> list[int | None]:
        """Append the backward graph and return the gradient of each value in `wrt`.

        A seed of None stands for one and is legal for a 0-d output only; a result of None means that no
        path leads from the outputs to that value.
        """
    def reference(
        self,
        outputs: Sequence[int],
        inputs: Sequence[npt.NDArray[Any]],
        overrides: dict[int, npt.NDArray[Any]] | None = None,
        effects: bool = False,
    ) -> list[npt.NDArray[Any]]:
        """Evaluate values in double precision, node by node without rewrites, kernels or plans.

        Args:
            outputs: Ids of the values to compute: results of nodes, inputs, parameters or constants.
            inputs: One array per `input` call; floats of any width, or integers.
            overrides: Contents to use for inputs and parameters, by id, instead of those given or stored.
            effects: Run the nodes with effects too, on copies; ids of parameters then give what they leave.

        Returns:
            float64 arrays, int64 where the value is an integer; nothing stored changes.

        Raises:
            ShapeError: an array has another shape than its value.
            TypeError: an array is neither of floats nor of integers, or of the other kind.
            ValueError: labels out of range.
        """
    def simplified(self, outputs: Sequence[int], limit: int | None = None) -> tuple[Graph, list[tuple[str, list[str]]]]:
        """Return the graph after at most `limit` single rewrites, and (pass, its rewrites) in order."""
    def nodes(self) -> list[tuple[str, str, list[int], list[int]]]:
        """Return (name, op, inputs, outputs) of every node in order."""

@final
class PlanCache:
    """The plans of programs that belong together: at most 32, the least recently used goes first."""

    def __new__(cls) -> PlanCache:
        """Make an empty cache."""
    def __len__(self) -> int:
        """Return the number of plans kept."""

@final
class Program:
    """A graph with chosen outputs: the only executable thing. Plans are made per batch size and cached."""

    def __new__(
        cls,
        graph: Graph,
        outputs: Sequence[int],
        name: str = "",
        plans: PlanCache | None = None,
        rewrites: int | None = None,
    ) -> Program:
        """Take the graph as it is now; nodes with effects ("update") run always, after everything else.

        The plans are kept in `plans`, or in a cache of the program's own. `rewrites` limits the single rewrites of
        the graph, to find the one that makes a result wrong.
        """
    def run(self, inputs: Sequence[npt.NDArray[Any]], out: Sequence[npt.NDArray[Any]] | None = None) -> list[Any]:
        """Run on arrays given in the order of the `Graph.input` calls.

        The first outputs are written to the arrays in `out`, if there are any, and returned as these.

        Returns one NumPy array per output; 0-d float32 outputs come back as Python floats. The batch may
        differ from the traced one.
        """
    def plan(self, batch: int) -> dict[str, Any]:
        """Describe the plan for a batch size without running it.

        Keys: "steps" (list of dicts with "op", "name", "shape", "kernel", "tasks", "flops", "bytes", "refused",
        the last a list of (kernel, reason)), "peak_bytes" (what a run needs beside the caller's arrays and the
        parameters, as the system counts it: the next four and the constants), "arena_bytes", "scratch_bytes" (of the
        threads as they are set now), "output_bytes", "packed_bytes", "parameter_bytes", "flops", "isa".
        """

def all_finite(array: npt.NDArray[Any]) -> bool:
    """Tell whether all numbers are finite as float32; the array is one that `Parameter.assign_floats` takes."""

def to_float32(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return a new array in C order; the array is one that `Parameter.assign_floats` takes, not 0-d."""

def eager(op: str, inputs: Sequence[npt.NDArray[Any]], attrs: dict[str, Any]) -> list[Any]:
    """Run one op on arrays through a cached one-node plan; 0-d outputs come back as Python floats."""

def cached_ops() -> int:
    """Return the number of one-op programs kept, at most 256."""

def set_num_threads(n: int) -> None:
    """Set the size of the thread pool, 1 to 256."""

def get_num_threads() -> int:
    """Return the size of the thread pool."""

def set_algorithm(name: str) -> None:
    """Choose "auto" or "direct" for plans made from now on."""

def get_algorithm() -> str:
    """Return the algorithm setting."""

def set_isa(name: str | None) -> None:
    """Cap the instruction set; None means the best one allowed (for tests)."""

def isa_levels() -> list[str]:
    """Return the instruction-set levels of this CPU, e.g. ["portable", "avx2", "avx512"]."""

def config() -> dict[str, Any]:
    """Return version, instruction set, threads with the reason, algorithm and build facts."""

def clear_cache() -> None:
    """Drop cached one-op plans, unused arenas and packed weights."""

def random_uniform(seed: int, stream: int, size: int, low: float = 0.0, width: float = 1.0) -> npt.NDArray[np.float32]:
    """Return `size` floats in [low, low + width) from Philox4x32-10 keyed by (seed, stream)."""

def random_normal(seed: int, stream: int, size: int, mean: float = 0.0, std: float = 1.0) -> npt.NDArray[np.float32]:
    """Return `size` normal floats from Philox4x32-10 keyed by (seed, stream), by Box and Muller."""

def random_permutation(seed: int, stream: int, size: int) -> npt.NDArray[np.int64]:
    """Return a permutation of range(size): Fisher-Yates on Philox4x32-10 keyed by (seed, stream)."""

def resize(
    x: npt.NDArray[np.uint8], size: tuple[int, int], window: tuple[int, int, int, int], interpolation: str
) -> npt.NDArray[np.uint8]:
    """Resize images (N, H, W, C) as Pillow does it, and return a window of the result.

    Args:
        x: uint8 images.
        size: Height and width of the whole result, 1 to 2**20 each.
        window: (top, left, height, width) of the part that is computed.
        interpolation: "bilinear" or "bicubic".

    Raises:
        ShapeError: not four dimensions, or an image without pixels or with more than 2**20 on a side.
        TypeError: not uint8.
        ValueError: a number out of range, or another interpolation.
        MemoryError: no memory for the result.
    """

def fail_allocation(count: int) -> None:
    """Let the `count`-th allocation of tensor memory from now on fail, once; 0 lets all succeed (for tests)."""

def failure_is_due() -> bool:
    """Tell whether a failure that was asked for is still to come."""

def last_input_addresses() -> list[int]:
    """Return the addresses the last run on this thread read its inputs from (tests of zero-copy)."""

def inject_panic(step: int, rank: int = 0) -> None:
    """Make the next run panic in its step number `step` on the member `rank` of its team (for tests)."""

def fma_peak(threads: int, seconds: float) -> float:
    """Measure the register-only FMA rate in GFLOP/s (benches)."""

def start_profile() -> None:
    """Begin to record the runs of this thread; what was recorded before is dropped."""

def stop_profile() -> list[tuple[list[dict[str, Any]], int]]:
    """End recording; for each run its steps as `Program.plan` describes them, with "seconds", and its threads."""
