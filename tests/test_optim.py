"""Optimizers and schedules: torch's formulas, the rules for hyperparameters and groups."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

from cnnrs import Trainer, nn, optim
from cnnrs.optim import Schedule
from tolerance import assert_same_bits, assert_within, gamma

STEPS = 20
ROUNDINGS_PER_STEP = 12  # every hyperparameter, product and sum of one update, generously counted

Arrays = dict[str, np.ndarray[Any, Any]]


def make_model(seed: int = 0) -> nn.Module:
    """Two linear layers with known random parameters."""
    rng = np.random.default_rng(seed)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    for _, parameter in model.named_parameters():
        parameter.assign(rng.standard_normal(parameter.shape).astype(np.float32))
    return model


def weights(model: nn.Module) -> Arrays:
    """A snapshot of all parameters."""
    return {name: np.array(value) for name, value in model.state_dict(copy=True).items()}


def known_gradients(model: nn.Module) -> list[Arrays]:
    """Random gradients for every step."""
    rng = np.random.default_rng(7)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    return [
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(STEPS)
    ]


def oracle(
    start: Arrays, gradients: list[Arrays], hyper: dict[str, dict[str, float]], nesterov: bool
) -> tuple[Arrays, Arrays]:
    """SGD in float64, and the same recurrence on absolute values, which bounds how far rounding can spread."""
    w = {name: value.astype(np.float64) for name, value in start.items()}
    size = {name: np.abs(value) for name, value in w.items()}
    buf = {name: np.zeros_like(value) for name, value in w.items()}
    buf_size = copy.deepcopy(buf)
    for grads in gradients:
        for name, h in hyper.items():
            grad = grads[name].astype(np.float64)
            g = grad + h["weight_decay"] * w[name]
            g_size = np.abs(grad) + h["weight_decay"] * size[name]
            w[name] = w[name] - h["lr"] * h["decoupled_weight_decay"] * w[name]
            size[name] = size[name] + h["lr"] * h["decoupled_weight_decay"] * size[name]
            buf[name] = h["momentum"] * buf[name] + g
            buf_size[name] = h["momentum"] * buf_size[name] + g_size
            step = g + h["momentum"] * buf[name] if nesterov else buf[name]
            step_size = g_size + h["momentum"] * buf_size[name] if nesterov else buf_size[name]
            w[name] = w[name] - h["lr"] * step
            size[name] = size[name] + h["lr"] * step_size
    return w, size


def check_against_oracle(optimizer: optim.SGD, overrides: dict[str, dict[str, float]] | None = None) -> None:
    """Apply known gradients and compare every parameter with the oracle."""
    model = make_model()
    start, gradients = weights(model), known_gradients(model)
    base = {name: getattr(optimizer, name) for name in ("lr", "momentum", "weight_decay", "decoupled_weight_decay")}
    hyper = {name: base | (overrides or {}).get(name, {}) for name in start}
    trainer = Trainer(model, optimizer)
    for grads in gradients:
        trainer.apply(grads)
    expected, size = oracle(start, gradients, hyper, optimizer.nesterov)
    for name, value in weights(model).items():
        assert_within(value, expected[name], gamma(STEPS * ROUNDINGS_PER_STEP) * size[name], name)
        assert not np.array_equal(value, start[name])


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.05},
        {"decoupled_weight_decay": 0.2},
        {"momentum": 0.8, "weight_decay": 0.05, "decoupled_weight_decay": 0.1},
        {"momentum": 0.8, "weight_decay": 0.05, "decoupled_weight_decay": 0.1, "nesterov": True},
    ],
    ids=lambda arguments: "-".join(arguments) or "plain",
)
def test_updates_follow_torch_formulas(arguments: dict[str, Any]) -> None:
    check_against_oracle(optim.SGD(lr=0.1, **arguments))


def test_groups_override_by_name() -> None:
    groups: list[Any] = [
        {"params": "*.bias", "weight_decay": 0.0, "lr_scale": 2.0},
        optim.Group(["2.weight"], momentum=0.5, lr=0.02),
        {"params": ["2.bias", "0.bias"], "lr_scale": 0.5},
    ]
    overrides = {
        "0.bias": {"weight_decay": 0.0, "lr": 0.05},
        "2.bias": {"weight_decay": 0.0, "lr": 0.05},
        "2.weight": {"momentum": 0.5, "lr": 0.02},
    }
    check_against_oracle(optim.SGD(lr=0.1, momentum=0.9, weight_decay=0.05, groups=groups), overrides)


def test_zero_learning_rate_changes_nothing() -> None:
    model = make_model()
    before = weights(model)
    trainer = Trainer(model, optim.SGD(lr=0.0, momentum=0.9, weight_decay=0.1))
    for grads in known_gradients(model)[:3]:
        trainer.apply(grads)
    assert_same_bits(weights(model), before)


def test_schedule_in_a_group_and_by_hand() -> None:
    """A schedule with its own length counts the updates of the trainer; equal to setting the rate by hand."""
    schedule = optim.Cosine(0.2, total_steps=STEPS)
    gradients = known_gradients(make_model())
    scheduled, manual = make_model(), make_model()
    one = Trainer(scheduled, optim.SGD(lr=0.3, groups=[{"params": "*", "lr": schedule, "lr_scale": 0.5}]))
    optimizer = optim.SGD(lr=0.0)
    other = Trainer(manual, optimizer)
    for step, grads in enumerate(gradients):
        optimizer.lr = 0.5 * schedule.value(step)
        one.apply(grads)
        other.apply(grads)
    assert one.updates == STEPS
    assert_same_bits(weights(scheduled), weights(manual))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"lr": -0.1}, ValueError, r"lr must be finite and >= 0, got -0.1"),
        ({"lr": math.nan}, ValueError, "lr must be finite"),
        ({"lr": math.inf}, ValueError, "lr must be finite"),
        ({"lr": 1e300}, ValueError, "lr must be finite"),
        ({"lr": 10**400}, ValueError, "lr must be finite"),
        ({"lr": "0.1"}, TypeError, "lr must be a number"),
        ({"lr": True}, TypeError, "lr must be a number"),
        ({"lr": 0.1, "momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\), got 1.0"),
        ({"lr": 0.1, "momentum": -0.1}, ValueError, "momentum must be in"),
        ({"lr": 0.1, "weight_decay": -1}, ValueError, "weight_decay must be finite and >= 0, got -1"),
        ({"lr": 0.1, "decoupled_weight_decay": -1}, ValueError, "decoupled_weight_decay must be"),
        ({"lr": 0.1, "nesterov": True}, ValueError, "nesterov=True needs momentum > 0"),
        ({"lr": 0.1, "nesterov": 1}, TypeError, "nesterov must be True or False"),
        ({"lr": 0.1, "groups": [{"params": "*", "momentum": 2}]}, ValueError, "momentum must be in"),
        ({"lr": 0.1, "groups": [{"params": "*", "rate": 2}]}, ValueError, "unknown key 'rate'"),
        ({"lr": 0.1, "groups": [{"lr": 2}]}, ValueError, "no key 'params'"),
        ({"lr": 0.1, "groups": [{"params": []}]}, ValueError, "at least one"),
        ({"lr": 0.1, "groups": [{"params": 3}]}, TypeError, "params must be"),
        ({"lr": 0.1, "groups": {"params": "*"}}, TypeError, "sequence of groups"),
        ({"lr": 0.1, "groups": ["*"]}, TypeError, "Group objects or dictionaries"),
        ({"lr": 0.1, "groups": [optim.Group("*", eps=0.1)]}, ValueError, "SGD: a group has unknown key 'eps'"),
    ],
)
def test_sgd_refuses(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        optim.SGD(**arguments)


@pytest.mark.parametrize(
    ("make", "arguments", "error", "text"),
    [
        (optim.RMSProp, {"alpha": 1.1}, ValueError, r"RMSProp: alpha must be in \[0, 1\], got 1.1"),
        (optim.RMSProp, {"momentum": 1.0}, ValueError, r"RMSProp: momentum must be in \[0, 1\)"),
        (optim.RMSProp, {"centered": 1}, TypeError, "RMSProp: centered must be True or False, got 1"),
        (optim.RMSProp, {"eps": -1e-8}, ValueError, "RMSProp: eps must be finite and >= 0"),
        (optim.RMSProp, {"groups": [{"params": "*", "betas": (0, 0)}]}, ValueError, "RMSProp: a group has unknown key"),
        (optim.Adam, {"betas": (0.9, 1.0)}, ValueError, r"Adam: betas\[1\] must be in \[0, 1\), got 1.0"),
        (optim.Adam, {"betas": (-0.1, 0.9)}, ValueError, r"Adam: betas\[0\] must be in"),
        (optim.Adam, {"betas": 0.9}, TypeError, "Adam: betas must be a pair of numbers, got 0.9"),
        (optim.Adam, {"betas": (0.9, 0.9, 0.9)}, TypeError, "Adam: betas must be a pair of numbers"),
        (optim.Adam, {"betas": (0.9, "0.9")}, TypeError, r"Adam: betas\[1\] must be a number"),
        (optim.Adam, {"amsgrad": None}, TypeError, "Adam: amsgrad must be True or False"),
        (optim.Adam, {"decoupled_weight_decay": -1}, ValueError, "Adam: decoupled_weight_decay must be"),
        (
            optim.Adam,
            {"groups": [{"params": "*", "momentum": 0}]},
            ValueError,
            "expected params and any of lr, lr_scale",
        ),
        (optim.AdamW, {"weight_decay": math.inf}, ValueError, "AdamW: weight_decay must be finite"),
        (optim.AdamW, {"groups": [{"params": "*", "decoupled_weight_decay": 0}]}, ValueError, "unknown key 'decoupled"),
        (optim.Adagrad, {"lr_decay": -1}, ValueError, "Adagrad: lr_decay must be"),
        (optim.Adagrad, {"initial_accumulator_value": -1}, ValueError, "Adagrad: initial_accumulator_value must be"),
        (optim.Adagrad, {"lr": "fast"}, TypeError, "Adagrad: lr must be a number"),
    ],
)
def test_the_others_refuse(make: Any, arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make(**arguments)
    optimizer = make()
    (name, value), before = next(iter(arguments.items())), repr(optimizer)
    with pytest.raises(error, match=text):
        setattr(optimizer, name, value)
    assert (repr(optimizer), optimizer.version) == (before, 0)
    with pytest.raises(AttributeError, match="has no hyperparameter 'nesterov'"):
        optimizer.nesterov = True


def test_the_set_of_optimizers_is_closed() -> None:
    with pytest.raises(TypeError, match="abstract"):
        optim.Optimizer(lr=0.1)  # type: ignore[abstract]


def test_sgd_checks_assignments() -> None:
    optimizer = optim.SGD(lr=0.1, momentum=0.9, nesterov=True)
    with pytest.raises(ValueError, match="lr must be"):
        optimizer.lr = -1.0
    with pytest.raises(ValueError, match="nesterov=True needs momentum"):
        optimizer.momentum = 0.0
    with pytest.raises(AttributeError, match="no hyperparameter 'learning_rate'"):
        optimizer.learning_rate = 0.1
    assert (optimizer.lr, optimizer.momentum) == (0.1, 0.9)


def test_pattern_without_match_is_found_by_the_trainer() -> None:
    optimizer = optim.SGD(lr=0.1, groups=[{"params": ["0.*", "head.*"], "lr": 1.0}])
    with pytest.raises(ValueError, match=r"'head\.\*' of groups matches no parameter.*0\.weight"):
        Trainer(make_model(), optimizer)


SCHEDULES = [
    optim.Constant(0.1),
    optim.Step(0.1, 3, 0.5),
    optim.Cosine(0.1, 0.01),
    optim.Cosine(0.1, total_steps=9),
    optim.OneCycle(0.1, pct_start=0.4, div_factor=10, final_div_factor=100),
    optim.Warmup(optim.Cosine(0.1), steps=4, start_factor=0.1),
    optim.Warmup(optim.Step(0.1, 2), epochs=2),
    optim.MultiStep(0.1, [2, 1], 0.5),
    optim.Exponential(0.1, 0.9),
    optim.ReduceOnPlateau(0.1, patience=2, mode="max", monitor="val_accuracy"),
]


OPTIMIZERS = [
    optim.SGD(optim.OneCycle(0.1), 0.9, 1e-4, True, groups=[{"params": "*"}]),
    optim.RMSProp(0.1, 0.9, momentum=0.5, centered=True, groups=[{"params": "*", "alpha": 0.5}]),
    optim.Adam(optim.Exponential(0.1, 0.9), (0.8, 0.99), amsgrad=True, groups=[{"params": "*", "betas": (0.5, 0.6)}]),
    optim.AdamW(0.1, weight_decay=0.2, groups=[optim.Group("*", eps=1e-3)]),
    optim.Adagrad(0.1, 0.2, initial_accumulator_value=0.3, groups=[{"params": "*", "lr_decay": 0.5}]),
]


@pytest.mark.parametrize("value", [*SCHEDULES, *OPTIMIZERS])
def test_pickle_copy_and_repr(value: Any) -> None:
    for other in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value), eval(repr(value), vars(optim))):
        assert repr(other) == repr(value)
        if isinstance(value, Schedule):
            assert other == value
            assert [other.value(step, 20, 5) for step in range(20)] == [value.value(step, 20, 5) for step in range(20)]
    if isinstance(value, optim.Optimizer):
        other.lr = 0.5
        assert other.lr != value.lr
        assert other.version == value.version + 1


def values(schedule: Schedule, total: int | None, steps_per_epoch: int | None = None) -> list[float]:
    """The rates of a whole run and three steps beyond."""
    return [schedule.value(step, total, steps_per_epoch) for step in range((total or 12) + 3)]


def test_constant() -> None:
    assert values(optim.Constant(0.3), None) == [0.3] * 15


def test_step_counts_epochs() -> None:
    expected = [0.1 * 0.5 ** ((step // 4) // 2) for step in range(23)]
    assert values(optim.Step(0.1, 2, 0.5), 20, 4) == pytest.approx(expected)
    by_hand = [0.1 * 0.5 ** (step // 2) for step in range(15)]
    assert values(optim.Step(0.1, 2, 0.5), None, None) == pytest.approx(by_hand)


def test_multistep_counts_epochs() -> None:
    epochs = [step // 4 for step in range(23)]
    expected = [0.1 * 0.5 ** ((epoch >= 1) + 2 * (epoch >= 3)) for epoch in epochs]
    assert values(optim.MultiStep(0.1, (3, 1, 3), 0.5), 20, 4) == pytest.approx(expected)
    by_hand = [0.1 * 0.5 ** (step >= 5) for step in range(15)]
    assert values(optim.MultiStep(0.1, [5], 0.5), None, None) == pytest.approx(by_hand)
    assert values(optim.MultiStep(0.1, []), None) == [0.1] * 15
    assert optim.MultiStep(1.0, [1] * 10, 1e38).value(1) == math.inf


def test_exponential_counts_epochs() -> None:
    assert values(optim.Exponential(0.1, 0.5), 20, 4) == pytest.approx([0.1 * 0.5 ** (step // 4) for step in range(23)])
    assert values(optim.Exponential(0.1, 0.5), None) == pytest.approx([0.1 * 0.5**step for step in range(15)])


def test_plateau_is_a_function_of_the_metrics() -> None:
    """Patience, threshold, cooldown, the lowest rate; NaN is no improvement."""
    schedule = optim.ReduceOnPlateau(1.0, 0.1, patience=1, threshold=0.1, cooldown=1, min_lr=0.05)
    metrics = [1.0, 0.95, 0.92, 0.91, 0.5, 0.48, math.nan, 0.47, 0.47, 0.47]
    rates = [schedule.after(metrics[:epoch]).value(0) for epoch in range(len(metrics) + 1)]
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05])
    assert schedule.after([]) == schedule
    assert (schedule.lr, schedule.monitor) == (1.0, "val_loss")
    rising = optim.ReduceOnPlateau(1.0, 0.5, patience=0, threshold=0.0, monitor="val_accuracy")
    assert rising.after([0.1, 0.2, 0.2]).value(0) == 0.5
    warm = optim.Warmup(optim.ReduceOnPlateau(1.0, 0.5, patience=0), steps=2, start_factor=0.5)
    assert [warm.value(step) for step in range(4)] == [0.5, 0.75, 1.0, 1.0]
    assert (warm.monitor, warm.after([1.0, 1.0]).value(5)) == ("val_loss", 0.5)
    assert optim.Warmup(0.1, steps=1).monitor is None


def test_cosine() -> None:
    expected = [0.02 + (0.1 - 0.02) * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]
    rates = values(optim.Cosine(0.1, 0.02), 10)
    assert rates[:10] == pytest.approx(expected)
    assert rates[10:] == pytest.approx([0.02] * 3)
    assert values(optim.Cosine(0.1, 0.02, total_steps=10), None)[:13] == rates


def test_one_cycle() -> None:
    """The two cosine legs of torch's OneCycleLR: up to step 0.3 * 20 - 1 = 5, down to step 19."""
    low, high, end = 0.5 / 25, 0.5, 0.5 / 25 / 1e4
    up = [high + (low - high) * (1 + math.cos(math.pi * step / 5)) / 2 for step in range(6)]
    down = [end + (high - end) * (1 + math.cos(math.pi * (step - 5) / 14)) / 2 for step in range(6, 20)]
    rates = values(optim.OneCycle(0.5), 20)
    assert rates[:20] == pytest.approx([*up, *down])
    assert rates[20:] == pytest.approx([end] * 3)
    assert (rates[0], rates[5], rates[19]) == pytest.approx((low, high, end))


def test_one_cycle_of_few_steps() -> None:
    assert optim.OneCycle(0.5).value(0, 1) == pytest.approx(0.5 / 25 / 1e4)
    assert optim.OneCycle(0.5, pct_start=0.5).value(0, 2) == pytest.approx(0.5)
    assert optim.OneCycle(0.5, pct_start=0.0).value(5, 6) == pytest.approx(0.5 / 25 / 1e4)
    assert optim.OneCycle(0.5, pct_start=1.0).value(5, 6) == pytest.approx(0.5)


def test_warmup_rises_then_runs_the_schedule_over_the_rest() -> None:
    rates = values(optim.Warmup(optim.Cosine(0.4), steps=4, start_factor=0.25), 12)
    rest = [optim.Cosine(0.4).value(step, 8) for step in range(8)]
    assert rates[:12] == pytest.approx([0.1, 0.175, 0.25, 0.325, *rest])
    assert values(optim.Warmup(optim.Cosine(0.4), epochs=2, start_factor=0.25), 12, 2) == pytest.approx(rates)
    assert values(optim.Warmup(0.4, steps=2, start_factor=0.5), None)[:4] == pytest.approx([0.2, 0.3, 0.4, 0.4])
    assert max(values(optim.Warmup(optim.OneCycle(0.4), steps=40), 12)) < 0.4 / 25


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (optim.Cosine(0.1), "Cosine: .* give total_steps="),
        (optim.OneCycle(0.1), "OneCycle: .* give total_steps="),
        (optim.Warmup(optim.Cosine(0.1), steps=2), "Cosine: .* give total_steps="),
        (optim.Warmup(0.1, epochs=2), "Warmup: .* give steps="),
    ],
)
def test_schedules_without_a_length_say_so(schedule: Schedule, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        schedule.value(0)
    model = make_model()
    before = weights(model)
    with pytest.raises(ValueError, match=text):
        Trainer(model, optim.SGD(lr=schedule)).apply(known_gradients(model)[0])
    assert_same_bits(weights(model), before)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: optim.Constant(-1.0), "Constant: lr must be"),
        (lambda: optim.Step(0.1, 0), "Step: step_size must be"),
        (lambda: optim.Step(0.1, 1, -0.5), "Step: gamma must be"),
        (lambda: optim.Cosine(0.1, math.inf), "Cosine: min_lr must be"),
        (lambda: optim.Cosine(0.1, total_steps=0), "Cosine: total_steps must be"),
        (lambda: optim.OneCycle(0.1, pct_start=1.5), "OneCycle: pct_start must be"),
        (lambda: optim.OneCycle(0.1, div_factor=0), "OneCycle: div_factor must be"),
        (lambda: optim.MultiStep(-0.1, [1]), "MultiStep: lr must be"),
        (lambda: optim.MultiStep(0.1, [0]), "MultiStep: milestones must be an int from 1"),
        (lambda: optim.MultiStep(0.1, [1.5]), "MultiStep: milestones must be an int"),
        (lambda: optim.MultiStep(0.1, [1], math.nan), "MultiStep: gamma must be"),
        (lambda: optim.Exponential(0.1, -1.0), "Exponential: gamma must be"),
        (lambda: optim.ReduceOnPlateau(0.1, 1.0), r"ReduceOnPlateau: factor must be in \[0, 1\)"),
        (lambda: optim.ReduceOnPlateau(0.1, patience=-1), "ReduceOnPlateau: patience must be from 0"),
        (lambda: optim.ReduceOnPlateau(0.1, cooldown=-1), "ReduceOnPlateau: cooldown must be from 0"),
        (lambda: optim.ReduceOnPlateau(0.1, threshold=-1), "ReduceOnPlateau: threshold must be"),
        (lambda: optim.ReduceOnPlateau(0.1, min_lr=math.inf), "ReduceOnPlateau: min_lr must be"),
        (lambda: optim.ReduceOnPlateau(0.1, mode="up"), "ReduceOnPlateau: mode must be 'auto', 'min' or 'max'"),
        (lambda: optim.Warmup(0.1), "Warmup: expected one of steps and epochs"),
        (lambda: optim.Warmup(0.1, steps=1, epochs=1), "Warmup: expected one of steps and epochs"),
        (lambda: optim.Warmup(0.1, steps=0), "Warmup: steps must be"),
        (lambda: optim.Warmup(0.1, steps=1, start_factor=2), "Warmup: start_factor must be"),
    ],
)
def test_schedules_refuse(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


def test_schedules_refuse_other_types() -> None:
    for make, text in (
        (lambda: optim.MultiStep(0.1, 3), "MultiStep: milestones must be a sequence"),  # type: ignore[arg-type]
        (lambda: optim.MultiStep(0.1, "12"), "MultiStep: milestones must be a sequence"),  # type: ignore[arg-type]
        (lambda: optim.ReduceOnPlateau(0.1, monitor=3), "ReduceOnPlateau: monitor must be"),  # type: ignore[arg-type]
        (lambda: optim.ReduceOnPlateau(0.1, patience=1.5), "patience must be an int"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=text):
            make()


def test_a_schedule_that_gives_nonsense_is_caught() -> None:
    class Broken(Schedule):
        def value(self, step: int, total_steps: int | None = None, steps_per_epoch: int | None = None) -> float:
            return math.nan

    model = make_model()
    before = weights(model)
    with pytest.raises(ValueError, match="learning rate must be finite"):
        Trainer(model, optim.SGD(lr=Broken())).apply(known_gradients(model)[0])
    assert_same_bits(weights(model), before)
