"""The node cases of the `onnx` package as an outside judge of the operations."""
