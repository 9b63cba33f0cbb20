"""Weights on disk: safetensors in and out, checkpoints of torch in, without torch and without running anything."""

from cnnrs.weights.load import LoadReport, load_weights, read_tensors
from cnnrs.weights.safetensors import Entry, read_header, save_model

__all__ = ["Entry", "LoadReport", "load_weights", "read_header", "read_tensors", "save_model"]
