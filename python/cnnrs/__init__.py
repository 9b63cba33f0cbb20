"""Convolutional networks on CPUs: NumPy arrays in, NumPy arrays out, a Rust core in between."""

from cnnrs import callbacks, datasets, functional, models, nn, optim, testing
from cnnrs._args import conv_output_size
from cnnrs._core import DataError, ShapeError, UnsupportedError, WeightsError
from cnnrs._runtime import clear_cache, get_num_threads, set_algorithm, set_num_threads, show_config
from cnnrs.compile import compile  # noqa: A004 - the name of the contract
from cnnrs.preprocessing import Preprocessing
from cnnrs.random import manual_seed
from cnnrs.trainer import Trainer
from cnnrs.vjp import vjp
from cnnrs.weights import load_weights

__version__ = "0.1.0"  # as in Cargo.toml; a test compares them

__all__ = [
    "DataError",
    "Preprocessing",
    "ShapeError",
    "Trainer",
    "UnsupportedError",
    "WeightsError",
    "__version__",
    "callbacks",
    "clear_cache",
    "compile",
    "conv_output_size",
    "datasets",
    "functional",
    "get_num_threads",
    "load_weights",
    "manual_seed",
    "models",
    "nn",
    "optim",
    "set_algorithm",
    "set_num_threads",
    "show_config",
    "testing",
    "vjp",
]
