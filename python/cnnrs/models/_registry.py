"""The table of model functions by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from cnnrs import _args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cnnrs.nn.module import Module

_MODELS: dict[str, Callable[..., Module]] = {}
_Make = TypeVar("_Make", bound="Callable[..., Module]")


def register(make: _Make) -> _Make:
    """Enter a function that makes a model under its own name (a decorator)."""
    _MODELS[make.__name__] = make
    return make


def list_models() -> list[str]:
    """Return the names of all models, sorted.

    Examples:
        >>> from cnnrs import models
        >>> "lenet5" in models.list_models()
        True
    """
    return sorted(_MODELS)


def near(name: str, names: Iterable[str]) -> list[str]:
    """Return the names that a user may have meant: those like the name, or all."""
    from difflib import get_close_matches

    known = sorted(names)
    return get_close_matches(name[:100], known, n=5, cutoff=0.4) or known


def get_model(name: str, num_classes: int | None = None, weights: str | None = None, **options: Any) -> Module:
    """Make a model by name.

    Args:
        name: One of `list_models()`.
        num_classes: Number of outputs; None for the model's own, 1000 or 10.
        weights: Tag of published weights, or None for random parameters.
        **options: Go to the model's function.

    Raises:
        ValueError: unknown name; the text shows near ones.
        TypeError: `name` is not a str, or an argument the model does not take.

    Examples:
        >>> from cnnrs import models
        >>> sum(parameter.size for parameter in models.get_model("lenet5", num_classes=10).parameters())
        61706
    """
    if not isinstance(name, str):
        message = f"get_model: name must be a str, got {_args.show(name)}"
        raise TypeError(message)
    if name not in _MODELS:
        message = f"get_model: there is no model {_args.show(name)}; near names: {', '.join(near(name, _MODELS))}"
        raise ValueError(message)
    if num_classes is not None:
        options["num_classes"] = num_classes
    return _MODELS[name](weights=weights, **options)
