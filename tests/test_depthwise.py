"""Depthwise convolution: which kernels a plan takes, and that special values stay in their windows and channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cases
import cnnrs
import oracle
import tolerance
from cases import ConvCase
from cnnrs import _core, nn
from cnnrs import functional as F

BACKWARD = ("conv_depthwise_backward_data", "conv_depthwise_backward_weights")


def steps(case: ConvCase) -> list[dict[str, Any]]:
    """What a convolution and both of its gradients run."""
    graph = _core.Graph()
    x = graph.input(case.input_shape, "float32", "x")
    weight = graph.parameter(_core.Parameter(case.data().weight), "weight")
    attributes = {**case.geometry, "padding": case.window.padding}
    (y,) = graph.add("conv2d", [x, weight], attributes, "conv")
    seed = graph.input(graph.info(y)[0], "float32", "grad")
    outputs = [y, *graph.gradients([y], [seed], [x, weight])]
    assert None not in outputs
    program = _core.Program(graph, [value for value in outputs if value is not None], "depthwise")
    plan: list[dict[str, Any]] = program.plan(case.batch)["steps"]
    return plan


def refusals(plan: list[dict[str, Any]]) -> dict[str, str]:
    """Refused candidates and the reasons."""
    return {candidate: reason for step in plan for candidate, reason in step["refused"]}


@pytest.mark.parametrize("channels", [5, 32, 100])
def test_plan_takes_depthwise_kernels(isa: str, channels: int) -> None:
    """All three passes run without a packed weight, and say what they were chosen over."""
    plan = steps(ConvCase(2, (12, 13), channels, channels, (3, 3), padding=1, groups=channels))
    kernels = [step["kernel"] for step in plan]
    for kernel in ("conv_depthwise_", *BACKWARD):
        assert any(name.startswith(kernel) and name.endswith(isa) for name in kernels), kernels
    assert not any(name.startswith(("pack_", "conv_direct", "conv_backward", "repeat")) for name in kernels), kernels
    reason = "depthwise: no sum over channels"
    expected = dict.fromkeys(("conv_direct", "conv_backward_data", "conv_backward_weights"), reason)
    assert refusals(plan) == expected


@pytest.mark.usefixtures("isa")
def test_plan_repeats_channels_for_a_multiplier() -> None:
    """With several output channels per channel, the source is repeated and the data gradient summed."""
    plan = steps(ConvCase(2, (12, 13), 16, 48, (3, 3), padding=1, groups=16))
    kernels = [step["kernel"] for step in plan]
    assert kernels.count("repeat_3") == 2
    assert kernels.count("sum_repeated_3") == 1
    assert set(refusals(plan)) == {"conv_direct", "conv_backward_data", "conv_backward_weights"}


def test_plan_says_why_groups_are_not_depthwise() -> None:
    """A grouped convolution names its reason; without groups the question does not arise."""

    def reasons(groups: int) -> dict[str, str]:
        found = refusals(steps(ConvCase(1, (8, 8), 16, 16, (3, 3), groups=groups)))
        return {kernel: reason for kernel, reason in found.items() if "depthwise" in kernel}

    assert reasons(4) == dict.fromkeys(("conv_depthwise", *BACKWARD), "groups do not equal channels")
    assert reasons(1) == {}


def test_portable_takes_few_channels_by_groups() -> None:
    """Partial vectors are loops on the portable level: below five channels the general kernel is ahead."""
    case = ConvCase(1, (8, 8), 4, 4, (3, 3), groups=4)
    _core.set_isa("portable")
    try:
        assert refusals(steps(case))["conv_depthwise"] == "fewer than 5 channels"
    finally:
        _core.set_isa(None)


def test_explain_shows_the_kernel_and_the_reason() -> None:
    """`explain` names the depthwise kernel of a layer and why the general one was not taken."""
    model = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 8, 1, groups=2))
    text = model.explain((1, 14, 14, 32))
    assert "conv_depthwise_" in text
    assert "conv_direct: depthwise: no sum over channels" in text
    assert "conv_depthwise: groups do not equal channels" in text


@pytest.mark.parametrize("channels", [3, 20, 33])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.usefixtures("isa")
def test_special_values_reach_their_windows_only(special: float, channels: int) -> None:
    """One NaN or infinity changes what its channel's windows hold, in all three passes, and nothing else."""
    case = ConvCase(1, (9, 19), channels, channels, (3, 3), padding=1, groups=channels)
    data = case.data()
    weight = abs(data.weight) + np.float32(0.125)
    x, grad_y = data.x.copy(), data.grad_y.copy()
    x[0, 4, 9, channels - 1] = grad_y[0, 4, 9, channels - 1] = special
    window = (0, slice(3, 6), slice(8, 11), channels - 1)
    for function, clean, dirty in (
        (lambda a: F.conv2d(a, weight, **case.geometry), data.x, x),
        (lambda a: F.conv2d_backward_data(a, weight, case.input_shape, **case.geometry), data.grad_y, grad_y),
    ):
        expected, touched = function(clean).copy(), function(dirty)
        np.testing.assert_array_equal(touched[window], np.full((3, 3), special, np.float32))
        expected[window] = special
        tolerance.assert_same_bits(touched, expected)
    expected_w, _ = F.conv2d_backward_weights(data.x, data.grad_y, 3, **case.geometry)
    touched_w, _ = F.conv2d_backward_weights(x, data.grad_y, 3, **case.geometry)
    assert not np.isfinite(touched_w[..., channels - 1]).any()
    tolerance.assert_same_bits(touched_w[..., : channels - 1], expected_w[..., : channels - 1])


@pytest.mark.usefixtures("isa")
def test_activation_follows_the_bias() -> None:
    """A layer and its activation are one step; the result is the function of the sum with the bias."""
    cnnrs.manual_seed(0)
    x = cases.real(2, 9, 11, 24)
    for activation in (nn.ReLU(), nn.Tanh(), nn.Sigmoid()):
        conv = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        model = nn.Sequential(conv, activation)
        weight, bias = (np.asarray(model.state_dict()[name]) for name in ("0.weight", "0.bias"))
        plain = F.conv2d(x, weight, bias, padding=1, groups=24)
        reference = getattr(oracle, type(activation).__name__.lower())(plain)
        tolerance.assert_within(model(x), reference, tolerance.ulps(reference), type(activation).__name__)
        assert "conv_depthwise_" in model.explain((2, 9, 11, 24))
