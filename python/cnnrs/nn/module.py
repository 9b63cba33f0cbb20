"""The base of layers and models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from cnnrs import _args, graph
from cnnrs._value import Value
from cnnrs.nn._assign import assign_all
from cnnrs.nn._cache import Compiled, Key, ProgramCache, compile_module
from cnnrs.nn._capture import Capture, wanted
from cnnrs.nn._freeze import set_trainable
from cnnrs.nn._intermediate import Intermediate, intermediates
from cnnrs.nn._predict import predict
from cnnrs.nn._tree import Tree

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import numpy.typing as npt

    from cnnrs.explain import Summary
    from cnnrs.preprocessing import Preprocessing
    from cnnrs.profile import Profile


class Module(Tree):
    """A layer or model: parameters and other modules as attributes, and `forward` on symbolic values.

    Called on an array, a module is traced once per sample shape and dtype, planned, and run in evaluation mode;
    later calls run no Python of the layers. Called on a symbolic value inside `forward`, it records.

    Arrays are (N, H, W, C) for images. uint8 images are scaled to (x/255 - input_mean) / input_std inside the
    plan; float32 is taken as it is; float16 and float64 are converted once.

    Attributes:
        input_mean: Mean of the pixel values per channel, on the scale 0 to 1, for uint8 images.
        input_std: Their standard deviation, likewise.
        preprocessing: How `predict` makes a batch of pictures; None for a model that takes arrays alone.
        classes: The names of the labels, in order; empty where they are not known.
        training: False on parts that stay in evaluation mode while a trainer runs.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import functional as F, nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv = nn.Conv2d(1, 4, 3)
        ...         self.head = nn.Linear(4 * 6 * 6, 10)
        ...     def forward(self, x):
        ...         return self.head(F.flatten(F.relu(self.conv(x))))
        >>> Net()(np.zeros((2, 8, 8, 1), np.float32)).shape
        (2, 10)
    """

    input_mean: tuple[float, ...] = (0.0,)
    input_std: tuple[float, ...] = (1.0,)
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()
    training: bool = True
    _programs: ProgramCache

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Give the module its cache before `__init__`, also where it is copied or unpickled."""
        module = super().__new__(cls)
        object.__setattr__(module, "_programs", ProgramCache())
        return module

    def forward(self, x: Any) -> Any:
        """Compute the output from symbolic values with other modules and `cnnrs.functional`.

        Args:
            x: A symbolic value; it has shape, ndim, dtype and `+`.

        Returns:
            A symbolic value, or a tuple of them.
        """
        message = f"{type(self).__name__}: forward is not defined"
        raise NotImplementedError(message)

    def __call__(self, x: Any, *others: Any, out: Any = None) -> Any:
        """Run on a batch of images, or record while a model is traced.

        Args:
            x: An array with the batch on axis 0, or a symbolic value.
            *others: More symbolic values, for layers that join branches.
            out: An array for the result, written in place without a copy: float32, C-contiguous, writable and of
                exactly the result's shape; a tuple of them if `forward` returns several values. What it holds
                after an exception is undefined.

        Returns:
            A float32 array (a tuple of arrays if `forward` returns several values), or symbolic values; `out`
            where it was given.

        Raises:
            ShapeError: a layer does not fit its input; the text names the layer. Or `out` has another shape.
            TypeError: another dtype than float32, float16, float64 and uint8, or `out` is not float32.
            ValueError: `out` is not writable or not C-contiguous, or shares memory with `x` or a parameter.
            RuntimeError: called by a signal handler that interrupts a training step of the same parameters.
        """
        if isinstance(x, Value) or graph.current() is not None:
            if out is not None:
                message = f"{type(self).__name__}: out takes the result of a call with an array, not symbolic values"
                raise TypeError(message)
            return self._record(x, *others)
        if others:
            message = f"{type(self).__name__}: takes one array, got {1 + len(others)}; join them in one forward"
            raise TypeError(message)
        images = _args.check_images(x, type(self).__name__)
        if out is not None:
            _args.check_apart(out, x, type(self).__name__)
        return self._compiled(images).run((images,), self, out)

    def _record(self, x: Any, *others: Any) -> Any:
        trace = x.trace if isinstance(x, Value) else graph.current()
        with trace.scope(self):  # type: ignore[union-attr]  # __call__ saw one or the other
            values = [_args.check_array(item, type(self).__name__) for item in (x, *others)]
            result = self.forward(*(trace.operand(value) for value in values))  # type: ignore[union-attr]
        trace.returned(self, result)  # type: ignore[union-attr]
        return result

    def trace_logits(self, x: Value) -> Any:
        """Record the module on the input of a trace, with uint8 images scaled first.

        Args:
            x: The input (N, H, W, C), float32 or uint8.

        Returns:
            What `forward` returns.
        """
        if x.dtype == np.uint8:
            mean, std = _numbers(self.input_mean), _numbers(self.input_std)
            (x,) = graph.record("normalize", [x], mean=mean, std=std)
        return self(x)

    def _compiled(self, x: npt.NDArray[Any], head: str = "") -> Compiled:
        """Return the program for batches like x, from the cache if the structure is still the same."""
        # The call before was alike, mostly.
        call = (x.shape, x.dtype.char, graph.epoch(), head, wanted(self))
        before, compiled = self._programs.recent
        if before == call and compiled is not None:
            return compiled
        argument = (x.shape[1:], "uint8" if x.dtype.char == "B" else "float32")
        key = Key((argument,), *call[2:])
        batch = x.shape[0]
        compiled = self._programs.get(key, batch)
        if compiled is None:
            compiled = compile_module(self, key, batch)
            self._programs.put(key, batch, compiled)
        self._programs.recent = (call, compiled)
        return compiled

    def predict(self, images: Any, top: int = 5) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Classify images, in evaluation mode.

        An array that is a batch goes through the model as in a call. Pictures of any size need a model that knows its
        `preprocessing`, and go through that first: paths, Pillow images, lists of them and of uint8 arrays, and uint8
        arrays whose height and width are not the ones it makes. Where the names of the labels are known,
        `[model.classes[label] for label in labels[0]]` are those of the first image.

        Args:
            images: (N, H, W, C), uint8 or floats as in a call; or a picture or list of pictures.
            top: Number of best classes to return.

        Returns:
            Labels int64 (N, top) and probabilities float32 (N, top), the best first; of equal probabilities the
            lower label comes first.

        Raises:
            ShapeError: a layer does not fit its input, or the module does not give (N, classes).
            TypeError: a wrong dtype, `top` not an int, or pictures for a model without `preprocessing`.
            ValueError: `top` below 1 or above the number of classes.
            DataError: a file is no picture, or damaged; the text names it.
            ImportError: a path was passed and Pillow is not installed.
            OSError: a file cannot be read.
        """
        return predict(self, images, top)

    # Looking inside.

    def capture(self, *names: str) -> Capture:
        """Get the outputs of parts of the module from the calls made inside of a `with` block.

        The outputs become additional results of the plan; nothing else changes. Calls of this module with an array
        count, on this thread; each call fills the dictionary anew.

        Args:
            *names: Dotted names of parts ("layer3", "layer3.0.conv1"), or shell patterns of them ("layer3.*.conv1").

        Returns:
            A context manager that gives a dictionary: for each name the read-only array that the part returned, a
            tuple of arrays if it returned several values, and a list in order of use if `forward` calls the part
            more than once. A part that only a pattern names and that is not called is left out.

        Raises:
            ValueError: a name fits no part, or, in a call, a part that was named in full is not called.
            TypeError: a name is not a str.

        Examples:
            >>> import numpy as np
            >>> from cnnrs import models
            >>> model = models.lenet5()
            >>> with model.capture("features.2", "classifier.*") as activations:
            ...     logits = model(np.zeros((2, 28, 28, 1), np.float32))
            >>> activations["features.2"].shape
            (2, 14, 14, 6)
            >>> bool((activations["classifier.5"] == logits).all())
            True
        """
        return Capture(self, names)

    def trace(self, x: npt.NDArray[Any]) -> list[Intermediate]:
        """Compute every intermediate value of a call, in evaluation mode, for debugging.

        The values come from the reference executor: the graph is run as it was traced, without fusion and without
        kernels, in double precision, and the results are rounded to float32. That is slow; use a small batch.

        Args:
            x: A batch, as in a call.

        Returns:
            One row (layer, op, array) per value in the order of the computation: the dotted name of the layer, the
            name of the op, and a float32 array (int64 for positions). An op with several results has several rows.

        Raises:
            ShapeError: a layer does not fit its input; the text names the layer.
            TypeError: a wrong dtype.

        Examples:
            >>> import numpy as np
            >>> from cnnrs import models
            >>> rows = models.lenet5().trace(np.zeros((1, 28, 28, 1), np.float32))
            >>> for layer, op, array in rows[:3]:
            ...     print(layer, op, array.shape)
            features.0 conv2d (1, 28, 28, 6)
            features.1 tanh (1, 28, 28, 6)
            features.2 avg_pool2d (1, 14, 14, 6)
        """
        return intermediates(self, x)

    # Modes.

    def train(self, mode: bool = True) -> Self:
        """Let a trainer run the module and its parts in training mode (or not); returns the module."""
        mode = _args.flag(mode, "mode", type(self).__name__)
        for _, module in self.named_modules():
            module.training = mode
        graph.bump_epoch()
        return self

    def eval(self) -> Self:
        """Keep the module and its parts in evaluation mode, also in a trainer; returns the module."""
        return self.train(False)

    def freeze(self, pattern: str | None = None) -> Self:
        """Take parameters out of training; returns the module.

        Batch normalization all of whose parameters are frozen uses its running statistics and leaves them alone.

        Args:
            pattern: Dotted name of a part ("features") or a shell pattern of parameter names ("features.*");
                None means all.

        Raises:
            ValueError: the pattern fits no parameter.
        """
        set_trainable(self, pattern, False)
        return self

    def unfreeze(self, pattern: str | None = None) -> Self:
        """Put parameters back into training; returns the module.

        Args:
            pattern: As for `freeze`.

        Raises:
            ValueError: the pattern fits no parameter.
        """
        set_trainable(self, pattern, True)
        return self

    # State.

    def state_dict(self, copy: bool = False) -> dict[str, npt.NDArray[Any]]:
        """Return every parameter and buffer by its dotted name, in cnnrs layout (HWIO, (in, out)).

        Args:
            copy: Return a snapshot instead of live read-only views.

        Returns:
            Arrays by name, float32, counters int64; what is shared stands under each of its names.
        """
        copy = _args.flag(copy, "copy", type(self).__name__)
        named = self._named_tensors(remove_duplicate=False)
        return {name: tensor.array.copy() if copy else tensor.array for name, tensor in named}

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]], strict: bool = True) -> None:
        """Copy arrays in cnnrs layout into parameters and buffers: all of them or none.

        Args:
            state: Arrays by dotted name, of any float dtype (counters: of any integer dtype that fits int64), as
                `state_dict` returns them.
            strict: Refuse missing and unexpected names; otherwise they are left alone. A missing
                `num_batches_tracked` is never refused.

        Raises:
            WeightsError: a name is missing or unexpected, a shape or dtype is wrong; the text lists them.
            TypeError: `state` is not a mapping.
        """
        assign_all(self, state, _args.flag(strict, "strict", type(self).__name__))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as a safetensors file with torch's names and layout, replacing the file at once.

        Args:
            path: The file to write; `cnnrs.load_weights` reads it, and so does torch.

        Raises:
            OSError: the file cannot be written.
        """
        from cnnrs.weights import save_model

        save_model(self, path)

    # Description.

    def summary(self, input_shape: tuple[int, ...], batch_size: int = 1) -> Summary:
        """Describe the layers without running them; print the result.

        Args:
            input_shape: Shape of one sample, (H, W, C) for images.
            batch_size: The batch for which peak memory is given.

        Returns:
            A printable object: output shapes, parameters, multiply-accumulates of convolution and linear per
            sample, their totals, and the peak bytes of inference and of a training step.

        Raises:
            ShapeError: a layer does not fit its input.
            ValueError: a number is out of range.
        """
        from cnnrs.explain import summarize

        return summarize(self, input_shape, batch_size)

    def explain(self, batch_shape: tuple[int, ...]) -> str:
        """Describe what a call on a float32 batch will run.

        Args:
            batch_shape: Shape of the batch, (N, H, W, C) for images.

        Returns:
            One line per step: op, layer, shape, kernel, bytes, and why other kernels were refused.

        Raises:
            ShapeError: a layer does not fit its input.
            ValueError: a number is out of range.
        """
        from cnnrs.explain import explain_call

        return explain_call(self, batch_shape)

    def profile(self, x: npt.NDArray[Any], repeats: int = 10) -> Profile:
        """Measure where the time of a call goes; print the result.

        The medians of `repeats` calls after a first one; measuring costs each step two readings of the clock.

        Args:
            x: A batch, as in a call.
            repeats: Calls to measure.

        Returns:
            A printable table of the plan's steps: time, share of the call, GFLOP/s, share of the measured peak, bytes;
            its `save_trace` writes a file for Chrome's trace viewer.

        Raises:
            ShapeError: a layer does not fit its input.
            TypeError: a wrong dtype.
            ValueError: `repeats` is not an int of at least 1.

        Examples:
            >>> import numpy as np
            >>> from cnnrs import models
            >>> profile = models.lenet5().profile(np.zeros((1, 28, 28, 1), np.float32), repeats=3)
            >>> profile.rows[0].layer, profile.rows[0].op
            ('features.0', 'conv2d')
        """
        from cnnrs.profile import measure

        repeats = _args.whole(repeats, "repeats", type(self).__name__)
        return measure(lambda: self(x), repeats)

    def extra_repr(self) -> str:
        """Return the arguments to show in the tree."""
        return ""

    def __repr__(self) -> str:
        """Show the tree of parts."""
        children = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        if not children:
            return f"{type(self).__name__}({self.extra_repr()})"
        return "\n  ".join([f"{type(self).__name__}({self.extra_repr()}", *children]) + "\n)"


def _numbers(values: Any) -> tuple[float, ...]:
    """Return per-channel numbers as a tuple of Python floats."""
    return tuple(float(value) for value in values)
