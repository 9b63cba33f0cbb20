"""Traps that libraries of this kind have fallen into, one test each."""

from __future__ import annotations

import ctypes
import gc
import mmap
import platform
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnrs
import tolerance
from cases import real
from cnnrs import Trainer, datasets, models, nn, optim
from cnnrs import functional as F
from cnnrs.datasets.mnist import Part, _check_file, _md5
from idx_files import compress, encode_idx
from tolerance import assert_same_bits

INF = np.float32(np.inf)


@pytest.mark.usefixtures("isa")
def test_01_axes_of_one_size_are_told_apart() -> None:
    """N == H == W == C == K: nothing is guessed from sizes, in any direction."""
    size = 4
    x, weight = (real(size, size, size, size, seed=seed).round(1) for seed in (1, 2))
    y = F.conv2d(x, weight, padding="same")
    assert y.shape == x.shape
    expected, magnitude = np.zeros(x.shape), np.zeros(x.shape)
    top = left = 1  # of three zeros, the odd one lies behind
    for i, j, m, n in np.ndindex(size, size, size, size):
        row, column = i + m - top, j + n - left
        if 0 <= row < size and 0 <= column < size:
            pixel, kernel = x[:, row, column].astype(np.float64), weight[m, n].astype(np.float64)
            expected[:, i, j] += pixel @ kernel
            magnitude[:, i, j] += np.abs(pixel) @ np.abs(kernel)
    tolerance.assert_within(y, expected, tolerance.reduction(size**3, magnitude))


@pytest.mark.parametrize("channels", range(1, 18))
@pytest.mark.usefixtures("isa")
def test_01_every_tail_of_a_vector(channels: int) -> None:
    """Channels 1 to 17, on maps of one pixel and of none, and without images."""
    for shape in [(2, 1, 1, channels), (0, 3, 3, channels), (1, 3, 2, channels)]:
        x = real(*shape)
        assert_same_bits(F.relu(x), np.maximum(x, 0))
        weight = np.eye(channels, dtype=np.float32)[None, None]
        np.testing.assert_array_equal(F.conv2d(x, weight), x)
        assert F.conv2d(x, np.ones((3, 3, channels, 5), np.float32), padding=1).shape == (*shape[:3], 5)
    for shape in [(2, 0, 3, channels), (2, 3, 0, channels)]:
        with pytest.raises(cnnrs.ShapeError):
            F.max_pool2d(np.empty(shape, np.float32), 2)
    with pytest.raises(cnnrs.ShapeError, match="exceeds the padded input"):
        F.conv2d(real(1, 3, 3, channels), np.ones((6, 1, channels, 1), np.float32), padding=1)


@pytest.mark.parametrize(
    ("size", "kernel", "pads"),
    [(8, 3, (0, 1)), (7, 3, (1, 1)), (8, 2, (0, 0)), (7, 2, (0, 1)), (8, 5, (1, 2)), (7, 5, (2, 2)), (8, 1, (0, 0))],
)
def test_02_same_with_stride_2_pads_more_behind(size: int, kernel: int, pads: tuple[int, int]) -> None:
    """As TensorFlow: ceil(I / S) results, the odd zero behind. torch's symmetric padding is another convolution."""
    x, weight = real(2, size, size, 3), real(kernel, kernel, 3, 4)
    same = F.conv2d(x, weight, stride=2, padding="same")
    assert same.shape[1] == -(-size // 2)
    assert_same_bits(same, F.conv2d(x, weight, stride=2, padding=(pads, pads)))
    if pads[0] != pads[1]:
        mirrored = F.conv2d(x, weight, stride=2, padding=(pads[::-1], pads[::-1]))
        assert not np.allclose(same, mirrored)


@pytest.mark.usefixtures("isa")
def test_03_a_ceil_window_never_starts_in_the_padding_behind() -> None:
    """Size 5, kernel 2, stride 2, padding 1: the fourth window of ceil would start at 6 = I + P, so it is not there."""
    x = np.arange(1, 26, dtype=np.float32).reshape(1, 5, 5, 1)
    assert F.max_pool2d(x, 2, stride=2, padding=1, ceil_mode=True).shape == (1, 3, 3, 1)
    assert F.max_pool2d(x, 2, stride=2, ceil_mode=True)[0, :, :, 0].tolist() == [[7, 9, 10], [17, 19, 20], [22, 24, 25]]
    last = F.avg_pool2d(x, 2, stride=2, ceil_mode=True)[0, :, :, 0]
    assert last[2].tolist() == [21.5, 23.5, 25.0]  # what lies beyond input and padding never counts
    padded = F.avg_pool2d(x[:, :3, :3], 2, stride=2, padding=1, ceil_mode=True)
    assert padded[0, :, :, 0].tolist() == [[0.25, 1.25], [4.25, 10.0]]
    alone = F.avg_pool2d(x[:, :3, :3], 2, stride=2, padding=1, ceil_mode=True, count_include_pad=False)
    assert alone[0, :, :, 0].tolist() == [[1.0, 2.5], [8.5, 10.0]]


@pytest.mark.usefixtures("isa")
def test_03_special_values_in_maximum_pooling() -> None:
    """Minus infinity is a value, NaN wins, the first of equals gets the whole gradient."""
    x = np.full((1, 2, 2, 1), -INF)
    y, index = F.max_pool2d(x, 2, return_indices=True)
    assert (y.item(), index.item()) == (-INF, 0)
    x[0, 1, 0] = np.nan
    y, index = F.max_pool2d(x, 2, return_indices=True)
    assert np.isnan(y.item())
    assert index.item() == 2
    ties = np.ones((1, 4, 4, 3), np.float32)
    y, index = F.max_pool2d(ties, 2, return_indices=True)
    assert index[0, :, :, 0].tolist() == [[0, 2], [8, 10]]
    grad = F.max_pool2d_backward(np.full_like(y, 7), index, ties.shape, 2)
    assert grad[0, :, :, 0].tolist() == [[7, 0, 7, 0], [0] * 4, [7, 0, 7, 0], [0] * 4]


def test_04_batch_normalization_divides_by_n_and_keeps_n_minus_1() -> None:
    """`momentum` weighs the new value, eps stands inside of the root, and evaluation reads what a load wrote."""
    x = np.array([0, 2, 4, 6], np.float32).reshape(4, 1, 1, 1)  # mean 3, variance 5 over n, 20/3 over n - 1
    layer = nn.BatchNorm2d(1, eps=4.0, momentum=0.25)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(1, 2))
    Trainer(model, optim.SGD(lr=0.0)).step(x, np.zeros(4, np.int64))
    state = model.state_dict(copy=True)
    assert state["0.running_mean"] == np.float32(0.75)
    assert state["0.running_var"] == np.float32(0.75 + 0.25 * 20 / 3)
    assert (state["0.num_batches_tracked"].dtype, state["0.num_batches_tracked"].shape) == (np.int64, ())
    normalized = F.batch_norm(x, None, None, None, None, True, 0.25, 4.0)
    np.testing.assert_allclose(normalized.ravel(), (x.ravel() - 3) / np.sqrt(5 + 4), rtol=1e-6)
    fresh = nn.Sequential(nn.BatchNorm2d(1, eps=4.0), nn.Flatten(), nn.Linear(1, 2))
    fresh.load_state_dict(state)
    expected = (x.ravel() - 0.75) / np.sqrt(np.float64(state["0.running_var"].item()) + 4)
    np.testing.assert_allclose(fresh[0](x).ravel(), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="one value"):
        Trainer(model, optim.SGD(lr=0.1)).step(x[:1], np.zeros(1, np.int64))


def test_06_lenet_comes_in_two_named_forms() -> None:
    """61,706 parameters with full connections in the third layer; tanh and averages as of 1998, ReLU and maxima."""
    for form in ({"activation": "tanh", "pool": "avg"}, {"activation": "relu", "pool": "max"}):
        model = models.lenet5(**form)
        assert sum(parameter.size for parameter in model.parameters()) == 61_706
        assert next(iter(model.state_dict())) == "features.0.weight"
        text = model.explain((1, 28, 28, 1))
        assert form["pool"] in text
        assert "n1ih28iw28" in text  # (N, 28, 28, 1), padded by two inside


@pytest.mark.usefixtures("isa")
def test_07_softmax_of_ten_thousand() -> None:
    """Neither overflow nor NaN at +-1e4, in the loss and in its gradient."""
    logits = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], np.float32)
    rows = F.softmax(logits)
    third = np.float32(1) / np.float32(3)
    np.testing.assert_allclose(rows, [[1, 0, 0], [third] * 3, [0.5, 0.5, 0]], rtol=1e-6)
    assert F.cross_entropy(logits[:1], np.array([0])) == 0.0
    assert F.cross_entropy(logits[:1], np.array([1])) == 2e4
    loss, pull = cnnrs.vjp(lambda value: F.cross_entropy(value, np.array([1, 0, 0])), logits)
    assert np.isfinite(loss)
    assert np.isfinite(pull(1.0)).all()


def test_07_the_mean_over_no_images_is_refused() -> None:
    """A step, an evaluation and a fit on nothing are errors, not NaN."""
    trainer = Trainer(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), optim.SGD(lr=0.1))
    x, labels = real(0, 2, 2, 1), np.zeros(0, np.int64)
    for call in (
        trainer.step,
        trainer.gradients,
        lambda x, y: trainer.evaluate((x, y)),
        lambda x, y: trainer.fit((x, y)),
    ):
        with pytest.raises(ValueError, match="at least one image"):
            call(x, labels)
    assert trainer.predict(x).shape == (0, 3)


def test_07_smoothing_and_ignored_labels_in_the_mean() -> None:
    """The mean is over the labels that count; smoothing spreads over all classes; nothing but ignored: NaN."""
    logits, labels = real(3, 4), np.array([1, 9, 2])
    rows = np.log(np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    each = [-(0.9 * rows[row, label] + 0.1 * rows[row].mean()) for row, label in ((0, 1), (2, 2))]
    loss = F.cross_entropy(logits, labels, label_smoothing=0.1, ignore_index=9)
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-5)
    assert np.isnan(F.cross_entropy(logits, np.full(3, 9), ignore_index=9))


def test_08_decay_is_named_and_can_be_kept_from_biases() -> None:
    """L2 in the gradient goes through the momentum, decoupled decay does not; groups take the biases out of both."""

    def weights(**arguments: Any) -> dict[str, Any]:
        cnnrs.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 2))
        trainer = Trainer(model, optim.SGD(lr=0.1, momentum=0.9, **arguments))
        for _ in range(2):
            trainer.apply({"0.weight": np.ones((3, 2), np.float32), "0.bias": np.ones(2, np.float32)})
        return model.state_dict(copy=True)

    none = weights()
    coupled, decoupled = weights(weight_decay=0.1), weights(decoupled_weight_decay=0.1)
    assert not np.array_equal(coupled["0.weight"], decoupled["0.weight"])
    for kind in ("weight_decay", "decoupled_weight_decay"):
        decayed = weights(**{kind: 0.1})
        spared = weights(**{kind: 0.1}, groups=[{"params": "*.bias", kind: 0.0}])
        assert not np.array_equal(decayed["0.bias"], none["0.bias"])
        assert_same_bits(spared["0.bias"], none["0.bias"])
        assert_same_bits(spared["0.weight"], decayed["0.weight"])


def test_09_arrays_of_any_kind() -> None:
    """Zero-d arrays are refused by shape; foreign memory is read where it is."""
    with pytest.raises(cnnrs.ShapeError, match="4 dimensions"):
        F.conv2d(np.array(1, np.float32), real(1, 1, 1, 1))
    with mmap.mmap(-1, 4096) as memory:
        x = np.frombuffer(memory, np.float32, 3 * 3 * 4).reshape(1, 3, 3, 4)
        assert not F.relu(x).any()
        del x
        gc.collect()


def test_09_a_result_never_overwrites_its_input() -> None:
    """`out` may not share memory with the batch or with a weight, whole or in part."""
    model = nn.Sequential(nn.ReLU())
    memory = real(4, 6)
    for out in (memory[:3], memory[1:]):
        with pytest.raises(ValueError, match="memory"):
            model(memory[:3], out=out)
    before = memory.copy()
    separate = np.empty((3, 6), np.float32)
    assert model(memory[:3], out=separate) is separate
    assert_same_bits(memory, before)


def test_09_an_array_dropped_during_its_call() -> None:
    """The call holds what it reads: the last reference of the caller may go while it runs."""
    weight = real(3, 3, 16, 16)
    expected = F.conv2d(real(4, 40, 40, 16), weight, padding=1)
    holder = [real(4, 40, 40, 16)]
    results = []

    def call() -> None:
        results.append(F.conv2d(holder.pop(), weight, padding=1))

    for _ in range(20):
        holder.append(real(4, 40, 40, 16))
        worker = threading.Thread(target=call)
        worker.start()
        churn = [np.full((4, 40, 40, 16), 7, np.float32) for _ in range(3)]
        worker.join()
        del churn
    for result in results:
        assert_same_bits(result, expected)


def control_word() -> int:
    """MXCSR of this thread: rounding, masks, flush-to-zero and denormals-are-zero."""
    code = bytes([0x0F, 0xAE, 0x5C, 0x24, 0xF8, 0x8B, 0x44, 0x24, 0xF8, 0xC3])  # stmxcsr [rsp-8]; mov eax, [rsp-8]; ret
    try:
        memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError as error:
        pytest.skip(f"this system runs no code that is made at run time: {error}")
    with memory as page:
        page.write(code)
        start = ctypes.c_char.from_buffer(page)
        word: int = ctypes.CFUNCTYPE(ctypes.c_uint32)(ctypes.addressof(start))()
        del start
    return word & ~0x3F  # without the flags of past exceptions, which any arithmetic sets


def refused(trainer: Trainer, x: Any, labels: Any) -> None:
    """A step that ends in an error."""
    with pytest.raises(ValueError, match="expects classes"):
        trainer.step(x, labels)


def entry_points() -> dict[str, Callable[[], Any]]:
    """One call of each way into the engine."""
    x, labels = real(4, 6, 6, 2), np.arange(4) % 3
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    trainer = Trainer(model, optim.SGD(lr=0.1))
    _, grads = trainer.gradients(x, labels)
    return {
        "function": lambda: F.conv2d(x, real(3, 3, 2, 2)),
        "model": lambda: model(x),
        "predict": lambda: model.predict(x, top=1),
        "vjp": lambda: cnnrs.vjp(F.tanh, x)[1](x),
        "step": lambda: trainer.step(x, labels),
        "gradients": lambda: trainer.gradients(x, labels),
        "apply": lambda: trainer.apply(grads),
        "evaluate": lambda: trainer.evaluate((x, labels)),
        "fit": lambda: trainer.fit((x, labels), epochs=1, verbose=False),
        "error": lambda: refused(trainer, x, labels + 1),
        "assign": lambda: model[0].bias.assign(np.zeros(3, np.float32)),
        "random numbers": lambda: cnnrs.manual_seed(0) or nn.Linear(3, 3),
    }


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or sys.platform == "win32", reason="reads the register of x86-64"
)
@pytest.mark.parametrize("name", entry_points())
@pytest.mark.usefixtures("threads")
def test_10_the_floating_point_mode_is_left_alone(name: str) -> None:
    """The control word is the same before and after every entry point."""
    before = control_word()
    entry_points()[name]()
    assert control_word() == before


def test_11_bytes_become_float32_without_a_copy() -> None:
    """uint8 images are scaled inside the plan, channel by channel in the order in which they lie: RGB stays RGB."""
    model = nn.Sequential(nn.Flatten())
    model.input_mean, model.input_std = (0.0, 0.5, 1.0), (1.0, 0.5, 0.25)
    x = np.zeros((2, 64, 64, 3), np.uint8)
    x[..., 0], x[..., 1], x[..., 2] = 255, 0, 51
    model(x[:1])
    tracemalloc.start()
    try:
        y = model(x)
        assert tracemalloc.get_traced_memory()[1] < x.nbytes  # nothing of the images' size is made by NumPy
    finally:
        tracemalloc.stop()
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.reshape(-1, 3), np.tile([1.0, -1.0, -3.2], (2 * 64 * 64, 1)), rtol=1e-6)


def test_12_a_refused_file_says_which_check_failed_and_where(tmp_path: Path) -> None:
    """Also a file whose checksum is right: the parser's error names the field, its offset, and what it found."""
    labels = np.zeros(60_000, np.uint8)
    labels[1234] = 10
    content = encode_idx(labels)
    part = Part("train-labels-idx1-ubyte", (60_000,), len(content), md5=_md5(content))
    path = tmp_path / "labels.gz"
    path.write_bytes(compress(content))
    with pytest.raises(cnnrs.DataError, match=r"labels\.gz: label at offset 1242: expected 0 to 9, found 10$"):
        _check_file(part, path)
    path.write_bytes(compress(content[:-1]))
    with pytest.raises(
        cnnrs.DataError, match=r"elements at offset 8: expected 60000 bytes .* found 59999 \(truncated\)"
    ):
        datasets.read_idx(path)
    model = nn.Linear(3, 2)
    model.save(tmp_path / "m.safetensors")
    saved = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(saved[:-4])
    with pytest.raises(cnnrs.WeightsError, match=r"the tensors take 32 bytes, the file has 28 behind the header"):
        cnnrs.load_weights(model, tmp_path / "m.safetensors")
