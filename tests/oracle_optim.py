"""float64 references of the optimizers, written from torch's documentation, with bounds of float32's rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bounded import Bounded

State = dict[str, Bounded]


def sgd(w: Bounded, grad: Any, state: State, h: Mapping[str, Any], t: int) -> Bounded:
    """One update of the parameter `w`; writes the states."""
    g = _decayed(w, grad, h)
    w = _shrunk(w, h["lr"], h.get("decoupled_weight_decay", 0.0))
    state["buf"] = h["momentum"] * state.get("buf", Bounded.exact(0.0)) + g
    step = g + h["momentum"] * state["buf"] if h["nesterov"] else state["buf"]
    return w - h["lr"] * step


def rmsprop(w: Bounded, grad: Any, state: State, h: Mapping[str, Any], t: int) -> Bounded:
    """One update of the parameter `w`; writes the states."""
    alpha, zero = h["alpha"], Bounded.exact(0.0)
    g = _decayed(w, grad, h)
    w = _shrunk(w, h["lr"], h["decoupled_weight_decay"])
    state["square"] = alpha * state.get("square", zero) + (1.0 - alpha) * (g * g)
    spread = state["square"]
    if h["centered"]:
        state["mean"] = alpha * state.get("mean", zero) + (1.0 - alpha) * g
        spread = spread - state["mean"] * state["mean"]
    state["buf"] = h["momentum"] * state.get("buf", zero) + g / (spread.sqrt() + h["eps"])
    return w - h["lr"] * state["buf"]


def adam(w: Bounded, grad: Any, state: State, h: Mapping[str, Any], t: int) -> Bounded:
    """One update of the parameter `w`; writes the states."""
    (beta1, beta2), zero = h["betas"], Bounded.exact(0.0)
    g = _decayed(w, grad, h)
    w = _shrunk(w, h["lr"], h["decoupled_weight_decay"])
    state["m"] = beta1 * state.get("m", zero) + (1.0 - beta1) * g
    state["v"] = beta2 * state.get("v", zero) + (1.0 - beta2) * (g * g)
    v = state["v"]
    if h["amsgrad"]:
        v = state["largest"] = state.get("largest", zero).maximum(v)
    denominator = v.sqrt() / Bounded(1.0 - beta2**t).sqrt() + h["eps"]
    return w - Bounded(h["lr"]) / (1.0 - beta1**t) * (state["m"] / denominator)


def adamw(w: Bounded, grad: Any, state: State, h: Mapping[str, Any], t: int) -> Bounded:
    """Adam whose decay is decoupled."""
    return adam(w, grad, state, {**h, "weight_decay": 0.0, "decoupled_weight_decay": h["weight_decay"]}, t)


def adagrad(w: Bounded, grad: Any, state: State, h: Mapping[str, Any], t: int) -> Bounded:
    """One update of the parameter `w`; writes the states."""
    rate = h["lr"] / (1.0 + (t - 1) * h["lr_decay"])
    g = _decayed(w, grad, h)
    w = _shrunk(w, rate, h["decoupled_weight_decay"])
    state["sum"] = state.get("sum", Bounded(h["initial_accumulator_value"])) + g * g
    return w - rate * (g / (state["sum"].sqrt() + h["eps"]))


def _decayed(w: Bounded, grad: Any, h: Mapping[str, Any]) -> Bounded:
    return Bounded.exact(grad) + h["weight_decay"] * w


def _shrunk(w: Bounded, rate: float, decay: float) -> Bounded:
    return w * (1.0 - Bounded(rate) * decay)
