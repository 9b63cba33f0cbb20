"""Normalization layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnrs import _args, functional, graph
from cnnrs._core import ShapeError, UnsupportedError
from cnnrs.functional.norm import normalized
from cnnrs.nn import init
from cnnrs.nn.module import Module
from cnnrs.nn.parameter import Buffer, Parameter


class _BatchNorm(Module):
    """What the batch normalizations share: everything but the number of dimensions."""

    ranks: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        op = type(self).__name__
        self.num_features = _args.whole(num_features, "num_features", op)
        self.eps = _args.number(eps, "eps", op, 0.0)
        if momentum is None:
            message = f"{op}: momentum=None, the mean over all batches, is not there; give the weight of the new value"
            raise UnsupportedError(message)
        self.momentum = _args.number(momentum, "momentum", op, 0.0, 1.0)
        affine = _args.flag(affine, "affine", op)
        tracked = _args.flag(track_running_stats, "track_running_stats", op)
        shape = (self.num_features,)
        self.weight = Parameter(init.constant(shape, 1.0)) if affine else None
        self.bias = Parameter(init.zeros(shape)) if affine else None
        self.running_mean = Buffer(init.zeros(shape)) if tracked else None
        self.running_var = Buffer(init.constant(shape, 1.0)) if tracked else None
        self.num_batches_tracked = Buffer(np.zeros((), np.int64)) if tracked else None

    def forward(self, x: Any) -> Any:
        """Record the normalization, and in training mode the update of the running values."""
        self._check(x.shape)
        mean, var, counter = self.running_mean, self.running_var, self.num_batches_tracked
        trains = x.trace.layer_trains and not self._frozen()
        if trains and counter is not None:
            x.trace.count(counter)
        from_batch = trains or mean is None
        return functional.batch_norm(x, mean, var, self.weight, self.bias, from_batch, self.momentum, self.eps)

    def _frozen(self) -> bool:
        """Tell whether the parameters, or without any the running values, were frozen."""
        parameters = [tensor for tensor in (self.weight, self.bias) if tensor is not None]
        if parameters:
            return not any(parameter.trainable for parameter in parameters)
        return self.running_mean is not None and self.running_mean.frozen

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) not in self.ranks or shape[-1] != self.num_features:
            forms = " or ".join({2: "(N, {})", 3: "(N, L, {})", 4: "(N, H, W, {})"}[rank] for rank in self.ranks)
            message = f"{graph.label('batch_norm')}: x must be {forms.format(*[self.num_features] * 2)}, got {shape}"
            raise ShapeError(message)

    def extra_repr(self) -> str:
        """Return the arguments that matter."""
        text = f"{self.num_features}, eps={self.eps:g}, momentum={self.momentum:g}"
        text += "" if self.weight is not None else ", affine=False"
        return text if self.running_mean is not None else f"{text}, track_running_stats=False"


class BatchNorm2d(_BatchNorm):
    """Normalizes every channel of images (N, H, W, C); see `functional.batch_norm`.

    A trainer's steps take mean and variance from the batch and let `running_mean` and `running_var` follow them;
    everything else (a call, `evaluate`, `vjp`) uses the running values and changes nothing. So does training after
    `eval()`, or while all parameters are frozen.

    Names and starts are torch's: `weight` 1, `bias` 0, `running_mean` 0, `running_var` 1, `num_batches_tracked` (int64,
    0-d) 0, which counts how often the layer was used in training.

    Args:
        num_features: C.
        eps: Added to the variance, >= 0.
        momentum: Weight of a new running value, in [0, 1].
        affine: Whether there are `weight` and `bias`.
        track_running_stats: Whether there are running values; without them every use takes the batch's statistics.

    Raises:
        TypeError: an argument of another type.
        UnsupportedError: `momentum` None.
        ValueError: a number out of range; in use, a batch with one value per channel.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> layer = nn.BatchNorm2d(3)
        >>> layer(np.ones((1, 2, 2, 3), np.float32)).shape
        (1, 2, 2, 3)
        >>> list(layer.state_dict())
        ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """

    ranks = (4,)


class BatchNorm1d(_BatchNorm):
    """Normalizes every feature of rows (N, C) or sequences (N, L, C); see `BatchNorm2d`.

    Args:
        num_features: C.
        eps: Added to the variance, >= 0.
        momentum: Weight of a new running value, in [0, 1].
        affine: Whether there are `weight` and `bias`.
        track_running_stats: Whether there are running values; without them every use takes the batch's statistics.

    Raises:
        TypeError: an argument of another type.
        UnsupportedError: `momentum` None.
        ValueError: a number out of range; in use, a batch with one value per channel.
    """

    ranks = (2, 3)


class GroupNorm(Module):
    """Normalizes every group of channels of every image by itself, (N, ..., C); see `functional.group_norm`.

    Args:
        num_groups: Divides `num_channels`.
        num_channels: C.
        eps: Added to the variance, >= 0.
        affine: Whether there are `weight` and `bias`.

    Raises:
        TypeError: an argument of another type.
        ValueError: a number out of range, or `num_groups` does not divide `num_channels`.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> nn.GroupNorm(2, 6)(np.ones((1, 4, 4, 6), np.float32)).shape
        (1, 4, 4, 6)
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        """Make weight and bias."""
        super().__init__()
        op = "GroupNorm"
        self.num_groups = _args.whole(num_groups, "num_groups", op)
        self.num_channels = _args.whole(num_channels, "num_channels", op)
        if self.num_channels % self.num_groups:
            message = (
                f"{op}: num_groups must divide num_channels, got num_groups {self.num_groups}, "
                f"num_channels {self.num_channels}"
            )
            raise ValueError(message)
        self.eps = _args.number(eps, "eps", op, 0.0)
        affine = _args.flag(affine, "affine", op)
        self.weight = Parameter(init.constant((self.num_channels,), 1.0)) if affine else None
        self.bias = Parameter(init.zeros((self.num_channels,))) if affine else None

    def forward(self, x: Any) -> Any:
        """Record the normalization."""
        if x.shape[-1:] != (self.num_channels,):
            message = f"{graph.label('group_norm')}: x must be (N, ..., {self.num_channels}), got {x.shape}"
            raise ShapeError(message)
        return functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Return the arguments that matter."""
        text = f"{self.num_groups}, {self.num_channels}, eps={self.eps:g}"
        return text if self.weight is not None else f"{text}, affine=False"


class LayerNorm(Module):
    """Normalizes over the trailing axes; see `functional.layer_norm`.

    Args:
        normalized_shape: Sizes of the trailing axes, or that of the last one.
        eps: Added to the variance, >= 0.
        elementwise_affine: Whether there are `weight` and `bias`, of `normalized_shape`.
        bias: Whether there is a `bias` beside the `weight`.

    Raises:
        TypeError: an argument of another type.
        ValueError: a number out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> nn.LayerNorm(6)(np.ones((2, 4, 6), np.float32)).shape
        (2, 4, 6)
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        """Make weight and bias."""
        super().__init__()
        op = "LayerNorm"
        self.normalized_shape = normalized(normalized_shape, op)
        self.eps = _args.number(eps, "eps", op, 0.0)
        affine = _args.flag(elementwise_affine, "elementwise_affine", op)
        with_bias = _args.flag(bias, "bias", op) and affine
        self.weight = Parameter(init.constant(self.normalized_shape, 1.0)) if affine else None
        self.bias = Parameter(init.zeros(self.normalized_shape)) if with_bias else None

    def forward(self, x: Any) -> Any:
        """Record the normalization."""
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Return the arguments that matter."""
        text = f"{self.normalized_shape}, eps={self.eps:g}"
        if self.weight is None:
            return f"{text}, elementwise_affine=False"
        return text if self.bias is not None else f"{text}, bias=False"


class LocalResponseNorm(Module):
    """Divides by a power of the squares of neighbouring channels, (N, ..., C); see `functional.local_response_norm`.

    Args:
        size: Channels of the window.
        alpha: >= 0.
        beta: The exponent.
        k: >= 0.

    Raises:
        TypeError: an argument of another type.
        ValueError: a number out of range.

    Examples:
        >>> import numpy as np
        >>> from cnnrs import nn
        >>> nn.LocalResponseNorm(5)(np.ones((1, 2, 2, 8), np.float32)).shape
        (1, 2, 2, 8)
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        """Keep the numbers."""
        super().__init__()
        op = "LocalResponseNorm"
        self.size = _args.whole(size, "size", op)
        self.alpha = _args.number(alpha, "alpha", op, 0.0)
        self.beta = _args.number(beta, "beta", op)
        self.k = _args.number(k, "k", op, 0.0)

    def forward(self, x: Any) -> Any:
        """Record the normalization."""
        return functional.local_response_norm(x, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{self.size}, alpha={self.alpha:g}, beta={self.beta:g}, k={self.k:g}"
