"""Updates that make the gradient of a large linear weight themselves: same bits, only where nobody else reads it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tolerance
from cases import Array, real
from cnnrs import Trainer, nn, optim
from cnnrs import functional as F

FUSED = "linear_backward_weights_"


class Net(nn.Module):
    """A layer of 1.2 MB and one of 12 KB; the large one once more if it is shared."""

    def __init__(self, shared: bool = False) -> None:
        super().__init__()
        self.large = nn.Linear(560, 560)
        self.small = nn.Linear(560, 5)
        self.shared = shared

    def forward(self, x: Any) -> Any:
        x = F.relu(self.large(x))
        return self.small(F.relu(self.large(x)) if self.shared else x)


def batch(rows: int = 9) -> tuple[Array, Array]:
    """Rows and labels."""
    return real(rows, 560), np.arange(rows) % 5


def twins(optimizer: Callable[[], optim.Optimizer], **options: Any) -> Iterator[Trainer]:
    """Two trainers of equal models."""
    for _ in range(2):
        model = Net(options.get("shared", False))
        for seed, parameter in enumerate(model.parameters()):
            parameter.assign(0.05 * real(*parameter.shape, seed=seed))
        yield Trainer(model, optimizer(), **{key: value for key, value in options.items() if key != "shared"})


def fused(trainer: Trainer, rows: int = 9) -> list[str]:
    """The layers whose updates make their gradients."""
    steps = trainer.profile(*batch(rows), repeats=1).rows
    return [step.layer for step in steps if step.kernel.startswith(FUSED) and step.op != "linear_backward_weights"]


def state(trainer: Trainer) -> dict[str, Array]:
    """Parameters; after several steps they tell of the optimizer's states, too."""
    return dict(trainer.model.state_dict())


OPTIMIZERS: dict[str, Callable[[], optim.Optimizer]] = {
    "sgd": lambda: optim.SGD(lr=0.1),
    "momentum": lambda: optim.SGD(lr=0.1, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda: optim.SGD(lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optim.Adam(lr=0.01, weight_decay=1e-3),
    "amsgrad": lambda: optim.AdamW(lr=0.01, amsgrad=True),
    "rmsprop": lambda: optim.RMSProp(lr=0.01, momentum=0.5),
    "adagrad": lambda: optim.Adagrad(lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.usefixtures("isa", "threads")
def test_a_step_is_gradient_and_update_to_the_bit(name: str) -> None:
    """`apply` of `gradients` writes the gradient and reads it back."""
    whole, apart = twins(OPTIMIZERS[name])
    for rows in (9, 9, 1):
        x, y = batch(rows)
        loss = whole.step(x, y)
        other, grads = apart.gradients(x, y)
        apart.apply(grads)
        assert loss == other
    first, second = state(whole), state(apart)
    assert first.keys() == second.keys()
    for key in first:
        tolerance.assert_same_bits(first[key], second[key])
    assert fused(whole) == ["large"]


def test_averages_follow_the_updated_weights() -> None:
    """Effects keep their order."""
    whole, apart = twins(OPTIMIZERS["momentum"], ema_decay=0.5)
    for _ in range(2):
        whole.step(*batch())
        apart.apply(apart.gradients(*batch())[1])
    for key, value in whole.ema_state_dict().items():
        tolerance.assert_same_bits(value, apart.ema_state_dict()[key])


def test_nothing_is_packed_and_small_weights_have_gradients() -> None:
    """The weights of a step are read as they are; what fits caches gains nothing."""
    trainer, _ = twins(OPTIMIZERS["momentum"])
    steps = trainer.profile(*batch(), repeats=1).rows
    assert not any(step.kernel.startswith("pack_") for step in steps)
    assert [step.layer for step in steps if step.op == "linear_backward_weights"] == ["small"]


@pytest.mark.parametrize(
    "options", [{"clip_norm": 1.0}, {"clip_value": 0.1}, {"shared": True}], ids=["norm", "value", "shared"]
)
def test_another_reader_keeps_the_gradient(options: dict[str, Any]) -> None:
    """Clipping reads it; a layer used twice has the sum of two."""
    whole, apart = twins(OPTIMIZERS["momentum"], **options)
    assert fused(whole) == []
    whole, apart = twins(OPTIMIZERS["momentum"], **options)
    whole.step(*batch())
    apart.apply(apart.gradients(*batch())[1])
    for key, value in state(whole).items():
        tolerance.assert_same_bits(value, state(apart)[key])


class Products(nn.Module):
    """Rows times a product of two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(0.05 * real(560, 560, seed=1))
        self.second = nn.Parameter(0.05 * real(560, 560, seed=2))

    def forward(self, x: Any) -> Any:
        return F.matmul(x, F.matmul(self.first, self.second))


def test_a_stored_operand_keeps_the_gradient() -> None:
    """The second factor's gradient is made from the first one, which the step writes."""
    whole, apart = (Trainer(Products(), optim.SGD(lr=0.1, momentum=0.9)) for _ in range(2))
    whole.step(*batch())
    apart.apply(apart.gradients(*batch())[1])
    for key, value in state(whole).items():
        tolerance.assert_same_bits(value, state(apart)[key])
    kernels = [step.kernel for step in whole.profile(*batch(), repeats=1).rows]
    assert not any(kernel.startswith(f"{FUSED}sgd") for kernel in kernels)


def test_values_that_are_looked_at_are_made(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """`CNNRS_CHECK=finite` finds what is not finite in the gradient before anything is written."""
    program = """
        import numpy as np
        from cnnrs import Trainer, nn, optim
        model = nn.Sequential(nn.Linear(560, 560), nn.Linear(560, 5))
        trainer = Trainer(model, optim.SGD(lr=0.1, momentum=0.9))
        x, y = np.full((4, 560), 1e20, np.float32), np.arange(4)
        for parameter in model.parameters():
            parameter.assign(np.full(parameter.shape, 1e-20, np.float32))
        kernels = [row.kernel for row in trainer.profile(x, y, repeats=1).rows]
        assert "linear_backward_weights" in " ".join(kernels)
        assert not any("weights_sgd" in kernel for kernel in kernels), kernels
    """
    result = run_python("\n".join(line[8:] for line in program.splitlines()), env={"CNNRS_CHECK": "finite"})
    assert result.returncode == 0, result.stderr


def test_threads_do_not_change_bits(assert_deterministic: Callable[..., None]) -> None:
    """Same bits with 1, 2 and 5 threads and from run to run."""

    def run() -> Array:
        trainer, _ = twins(OPTIMIZERS["momentum"])
        trainer.step(*batch(30))
        return trainer.model.state_dict()["large.weight"]

    assert_deterministic(run)
