"""The command line, called as a function and as a program."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cnnrs
from cnnrs import DataError, ShapeError, datasets, nn
from cnnrs import functional as F
from cnnrs.cli import main
from cnnrs.cli import train as train_command
from cnnrs.cli._pictures import ASCII, BLOCKS, choose_ramp, draw, draw_row
from cnnrs.cli.doctor import VARIABLES
from cnnrs.cli.predict import fit_digit, read_image
from cnnrs.models import _registry

sklearn_needed = pytest.mark.skipif(find_spec("sklearn") is None, reason="needs scikit-learn")


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "cnnrs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def check_one_line(errors: str, *texts: str) -> None:
    """Check that standard error is one line with all of `texts`, and no traceback."""
    assert errors.endswith("\n")
    assert errors.count("\n") == 1, errors
    assert errors.startswith("cnnrs ")
    for text in texts:
        assert text in errors


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that `cnnrs train` made of the digits in a few epochs."""
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    assert (
        main(
            [
                "train",
                "lenet5",
                "--epochs",
                "12",
                "--activation",
                "relu",
                "--pool",
                "max",
                "--quiet",
                "--output",
                str(path),
            ]
        )
        == 0
    )
    return path


RELU = ("--activation", "relu", "--pool", "max")


# train and eval


@sklearn_needed
def test_train_as_a_program(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    done = program(
        "train",
        "lenet5",
        "--data",
        "digits",
        "--epochs",
        "1",
        "--output",
        str(path),
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    assert "lenet5 (tanh, avg pooling) on digits: 1437 + 360 images" in done.stdout
    assert "1 epochs, batches of 64" in done.stdout
    assert "epoch 1/1: loss " in done.stderr
    assert "█" in done.stdout
    assert re.search(r"^test accuracy 0\.\d{4} \(\d+ of 360 wrong\), loss \d", done.stdout, re.MULTILINE)
    assert f"weights in {path}" in done.stdout
    assert path.stat().st_size > 61706 * 4


@sklearn_needed
def test_train_is_repeatable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for run, seed in enumerate(("7", "7", "8")):
        files.append(tmp_path / f"{run}")
        assert main(["train", "lenet5", "--epochs", "1", "--seed", seed, "--quiet", "--output", str(files[-1])]) == 0
    first, again, other = (path.read_bytes() for path in files)
    assert first == again
    assert first != other
    captured = capsys.readouterr()
    assert captured.err == ""
    assert len(captured.out.splitlines()) == 6


@sklearn_needed
def test_train_learns_and_eval_agrees(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(weights), "--data", "digits", *RELU]) == 0
    found = re.match(
        r"test accuracy (\d\.\d{4}) \((\d+) of 360 wrong\), loss \d\.\d{4}\n360 images of digits in ",
        capsys.readouterr().out,
    )
    assert found
    assert float(found[1]) > 0.85
    assert int(found[2]) == round((1 - float(found[1])) * 360)


@sklearn_needed
def test_options_reach_the_trainer(monkeypatch: pytest.MonkeyPatch, restore_threads: None) -> None:
    seen: dict[str, Any] = {}

    class Recorder:
        def __init__(self, model: Any, optimizer: Any, loss: str, seed: int) -> None:
            seen.update(model=model, optimizer=optimizer, loss=loss, seed=seed)

        def fit(self, train: Any, **options: Any) -> None:
            seen.update(options, train=train, threads=cnnrs.get_num_threads())

        def evaluate(self, test: Any) -> dict[str, float]:
            seen.update(test=test)
            return {"loss": 1.0, "accuracy": 0.5}

    monkeypatch.setattr(train_command, "Trainer", Recorder)
    options = "--epochs 2 --batch-size 32 --lr 0.25 --seed 5 --threads 3 --activation relu --pool max --quiet"
    assert main(["train", "lenet5", *options.split()]) == 0
    assert (seen["epochs"], seen["batch_size"], seen["seed"], seen["threads"], seen["verbose"]) == (2, 32, 5, 3, False)
    optimizer = seen["optimizer"]
    assert (optimizer.lr.max_lr, optimizer.momentum, optimizer.nesterov) == (0.25, 0.9, True)
    assert "ReLU" in repr(seen["model"])
    assert "MaxPool2d" in repr(seen["model"])
    assert (len(seen["train"]), len(seen["test"])) == (1437, 360)
    assert "validation" not in seen  # the test images choose nothing


def test_recipes() -> None:
    for data in ("digits", "mnist", "fashion_mnist"):
        for activation in ("tanh", "relu"):
            recipe = train_command.RECIPES[data, activation]
            assert recipe.max_lr > 0
            assert recipe.epochs <= (60 if data == "digits" else 10)


# predict


@sklearn_needed
@pytest.mark.parametrize("top", [1, 3, 10])
def test_predict(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], top: int) -> None:
    _, test = datasets.digits()
    right = 0
    for place in range(10):
        path = tmp_path / f"{place}.npy"
        np.save(path, test.images[place, ..., 0])
        assert main(["predict", str(path), "--weights", str(weights), "--top", str(top), *RELU]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert len(lines) == top
        probabilities = [float(value) for _, value in lines]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) <= 1.001
        right += lines[0][0] == str(test.labels[place])
    assert right >= 7


def test_predict_with_the_weights_of_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = np.zeros((28, 28), np.uint8)
    one[4:24, 13:16] = 255
    np.save(tmp_path / "one.npy", one)
    assert main(["predict", str(tmp_path / "one.npy"), "--top", "1"]) == 0
    assert capsys.readouterr().out.split()[0] == "1"


class Colours(nn.Module):
    """Tells the channel that is brightest in the middle of a picture."""

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        if weights is not None:
            assert weights == "DEFAULT"
            self.conv.weight.assign(np.eye(3, dtype=np.float32)[np.newaxis, np.newaxis])
            self.preprocessing = cnnrs.Preprocessing(resize=8, crop=4, mean=(0.0,), std=(1.0,))
            self.classes = ("red", "green", "blue")

    def forward(self, x: Any) -> Any:
        return F.global_avg_pool2d(self.conv(x))


def test_predict_with_another_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    monkeypatch.setitem(_registry._MODELS, "colours", Colours)
    picture = np.zeros((40, 30, 3), np.uint8)
    picture[..., 2] = 200
    picture[10:30, 5:25, 1] = 255
    image.fromarray(picture).save(tmp_path / "a.png")
    command = ["predict", str(tmp_path / "a.png"), "--model", "colours", "--top", "2"]
    assert main(command) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["green", "blue"]
    assert main([*command, "--resize", "4"]) == 0  # all of the width
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["blue", "green"]
    Colours("DEFAULT").save(tmp_path / "w.safetensors")
    assert main([*command, "--weights", str(tmp_path / "w.safetensors"), "--resize", "8", "--crop", "4"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2"]
    assert main([*command[:-1], "4"]) == 2
    assert "top must be at most the number of classes, 3" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "a.png"), "--crop", "4"]) == 2
    assert "expected another --model" in capsys.readouterr().err


@pytest.fixture
def digit() -> np.ndarray:
    """A large, thin, off-centre seven in gray on black."""
    image = np.zeros((90, 60), np.uint8)
    image[10:16, 20:50] = 200
    image[16:70, 44:50] = 200
    return image


def test_28x28_is_left_alone() -> None:
    image = np.random.default_rng(0).integers(0, 100, (28, 28), dtype=np.uint8)
    assert np.array_equal(fit_digit(image), image)
    assert np.array_equal(fit_digit(255 - image), image)


def test_digit_is_cropped_scaled_and_centred(digit: np.ndarray) -> None:
    small = fit_digit(digit)
    assert small.shape == (28, 28)
    assert small.dtype == np.uint8
    assert small.max() == 255
    rows, columns = (np.flatnonzero(small.any(axis=axis)) for axis in (1, 0))
    assert rows[-1] - rows[0] + 1 == 20
    assert columns[-1] - columns[0] + 1 == 10  # 60 x 30 pixels of ink become 20 x 10
    places = np.arange(28) + 0.5
    for axis in (0, 1):
        assert abs((small.sum(axis=1 - axis) * places).sum() / small.sum() - 14) <= 1


def test_place_size_brightness_and_inversion_do_not_matter(digit: np.ndarray) -> None:
    small = fit_digit(digit)
    for other in (
        255 - digit,
        np.pad(digit, ((30, 5), (0, 100))),
        np.repeat(np.repeat(digit, 3, 0), 3, 1),
        (digit // 2 + 20).astype(np.uint8),
    ):
        assert np.abs(fit_digit(other).astype(int) - small).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 200), (300, 300)])
def test_odd_sizes(shape: tuple[int, int]) -> None:
    image = np.zeros(shape, np.uint8)
    for value in (0, 255):
        if shape != (28, 28):
            with pytest.raises(DataError, match="expected a digit, got"):
                fit_digit(np.full(shape, value, np.uint8))
    if image.size > 1:
        image[shape[0] // 2, shape[1] // 2] = 255
        assert fit_digit(image).any()


def test_arrays_are_read_as_gray(tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    for array in (
        gray,
        gray[..., np.newaxis],
        np.repeat(gray[..., np.newaxis], 3, 2),
        (gray / 255).astype(np.float32),
        np.asfortranarray(gray),
    ):
        np.save(path, array)
        read = read_image(path)
        assert read.dtype == np.uint8
        assert np.array_equal(read, gray)
    np.save(path, np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8))
    assert read_image(path).tolist() == [[76, 150, 29]]


BAD_ARRAYS: dict[str, tuple[NDArray[Any], str]] = {
    "rank 1": (np.zeros(784, np.uint8), "expected an array of shape (H, W), (H, W, 1) or (H, W, 3), got (784,)"),
    "four channels": (np.zeros((9, 9, 4), np.uint8), "got (9, 9, 4)"),
    "empty": (np.zeros((0, 9), np.uint8), "0"),
    "int64": (np.zeros((9, 9), np.int64), "expected uint8, or floats from 0 to 1, got int64"),
    "bool": (np.zeros((9, 9), bool), "got bool"),
    "0 to 255 as floats": (np.full((9, 9), 255.0), "expected floats from 0 to 1, got 255 to 255"),
    "nan": (np.full((9, 9), np.nan), "expected floats from 0 to 1, got nan"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_array(tmp_path: Path, case: str) -> None:
    array, text = BAD_ARRAYS[case]
    path = tmp_path / "array.npy"
    np.save(path, array)
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert text in str(caught.value)
    assert str(path) in str(caught.value)


def npy(shape: str, dtype: str = "'|u1'", content: bytes = bytes(64)) -> bytes:
    """Give a .npy file with a header that may lie."""
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


@pytest.mark.parametrize(
    "content",
    [
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00",
        npy("(8, 8)")[:40],
        npy("(8, 8)")[:-1],
        npy("(8, 8)") + b"\0",
        npy("(True, 8)", content=bytes(9)),
        npy("(8, 8)", dtype="'<f2'"),
        npy("(8, 8)", dtype="'<U1'"),
        npy("(1000000, 1000000)"),
        npy("(4294967296, 4294967296, 4294967296)"),
        npy("(-8, -8)"),
        npy("(8.0, 8)"),
        npy("8"),
        npy("(8, 8"),
        npy("(8, 8)", dtype="'|O'"),
        npy("(8, 8)", dtype="'nonsense'"),
        npy("(8, 8)", dtype="[('a', '|u1')]"),
        npy("(8, 8)").replace(b"'shape'", b"'other'"),
        b"\x93NUMPY\x09\x00" + npy("(8, 8)")[8:],
    ],
)
def test_hostile_npy_is_a_data_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hostile.npy"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_image(path)


def test_pictures_are_read_as_gray(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="needs Pillow")
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    path = tmp_path / "picture"  # no ending: the content tells
    image_module.fromarray(gray).save(path, "PNG")
    assert np.array_equal(read_image(path), gray)
    image_module.fromarray(gray.astype(np.uint16)).save(path, "PNG")
    with pytest.raises(DataError, match="expected 8 bits a channel"):
        read_image(path)
    clear = image_module.fromarray(np.zeros((3, 4, 4), np.uint8))
    clear.save(path, "PNG")
    assert np.array_equal(read_image(path), np.full((3, 4), 255))


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_no_picture(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("PIL", reason="needs Pillow")
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises((DataError, OSError), match="picture"):
        read_image(path)


def test_picture_without_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert main(["predict", str(tmp_path / "a.png")]) == 1
    check_one_line(capsys.readouterr().err, "Pillow", 'pip install "cnnrs[image]"')


# summary and doctor


def test_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "lenet5"]) == 0
    text = capsys.readouterr().out
    assert main(["summary", "lenet5", "--input", "28", "28", "1"]) == 0
    assert capsys.readouterr().out == text
    assert "61,706" in text
    assert "features.0" in text


def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CNNRS_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("CNNRS_OFFLINE", "1")
    assert main(["doctor"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    facts = dict(re.split(" {2,}", line.strip(), maxsplit=1) for line in lines)
    assert facts["cnnrs"].startswith(cnnrs.__version__)
    assert facts["numpy"] == np.__version__
    assert facts["python"].startswith(".".join(map(str, sys.version_info[:2])))
    assert facts["threads"] == str(cnnrs.get_num_threads())
    assert facts["cache"] == str(tmp_path / "here")
    assert facts["download"] == "forbidden by CNNRS_OFFLINE"
    assert facts["total"].endswith(" GiB") or not Path("/proc/meminfo").exists()
    for name in VARIABLES:
        assert facts[name] == os.environ.get(name, "not set")


def test_doctor_finds_data(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").touch()
    monkeypatch.setenv("CNNRS_DATA", str(tmp_path))
    monkeypatch.setenv("CNNRS_CACHE", str(tmp_path / "cache"))
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"1 of 4 files in {tmp_path / 'mnist'}\n" in text
    assert f"0 of 4 files, looked in {tmp_path / 'fashion_mnist'}, {tmp_path / 'cache' / 'fashion_mnist'}\n" in text


# errors


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["train"], "required: MODEL"),
        (["train", "lenet5", "--data", "cifar"], "argument --data: invalid choice: 'cifar'"),
        (["train", "lenet5", "--epochs", "0"], "argument --epochs: expected at least 1, got 0"),
        (["train", "lenet5", "--epochs", "x"], "argument --epochs: invalid count value: 'x'"),
        (["train", "lenet5", "--lr", "nan"], "argument --lr: expected a finite number above 0, got nan"),
        (["train", "lenet5", "--lr", "-1"], "argument --lr: "),
        (["train", "lenet5", "--activation", "cos"], "argument --activation: invalid choice"),
        (["eval"], "one of the arguments WEIGHTS --pretrained is required"),
        (["eval", "a", "--pretrained"], "not allowed with argument"),
        (["predict"], "required: IMAGE"),
        (["summary", "lenet5", "--input", "28"], "argument --input: expected 3 arguments"),
    ],
)
def test_bad_arguments_are_one_line_and_code_2(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert errors.startswith("cnnrs")
    assert text in errors
    assert "--help" in errors


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "lenet6"], "lenet5"),
        (
            ["train", "lenet5", "--data", "mnist", "--root", "{tmp}/none"],
            "train-images-idx3-ubyte.gz not found in {tmp}/none/mnist",
        ),
        (["train", "lenet5", "--threads", "257", "--quiet"], "257"),
        (["train", "lenet5", "--seed", "-1", "--quiet"], "seed"),
        (
            ["train", "lenet5", "--output", "{tmp}/none/file"],
            "--output: expected a path in an existing folder, got {tmp}/none/file",
        ),
        (["eval", "{tmp}/none"], "{tmp}/none"),
        (["eval", "{tmp}/text", "--data", "digits"], "{tmp}/text"),
        (["eval", "{tmp}"], "{tmp}"),
        (["predict", "{tmp}/none.png"], "{tmp}/none.png"),
        (["predict", "{tmp}/blank.npy"], "expected a digit"),
        (["predict", "{tmp}/one.npy", "--weights", "{tmp}/text"], "{tmp}/text"),
        (["summary", "lenet5", "--input", "3", "3", "1"], "features.3"),
        (["summary", "lenet"], "lenet5"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CNNRS_OFFLINE", "1")
    monkeypatch.setenv("CNNRS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CNNRS_DATA", raising=False)
    (tmp_path / "text").write_text("these are not weights\n" * 10)
    np.save(tmp_path / "blank.npy", np.zeros((40, 40), np.uint8))
    np.save(tmp_path / "one.npy", np.eye(28, dtype=np.uint8))
    assert main([argument.format(tmp=tmp_path) for argument in arguments]) == 2
    captured = capsys.readouterr()
    check_one_line(captured.err, text.format(tmp=tmp_path))
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (ConnectionError("no mirror"), 1, "no mirror"),
        (MemoryError("need 7 bytes"), 1, "need 7 bytes"),
        (ImportError("needs x"), 1, "needs x"),
        (ShapeError("two\nlines"), 2, "two lines"),
        (cnnrs.UnsupportedError("not yet"), 2, "not yet"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: object) -> None:
        raise error

    monkeypatch.setattr("cnnrs.cli.doctor.run", fail)
    assert main(["doctor"]) == code
    check_one_line(capsys.readouterr().err, text)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: object) -> None:
        raise AssertionError

    monkeypatch.setattr("cnnrs.cli.doctor.run", fail)
    with pytest.raises(AssertionError):
        main(["doctor"])


@sklearn_needed
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_in_training(tmp_path: Path) -> None:
    path = tmp_path / "never"
    command = [sys.executable, "-m", "cnnrs", "train", "lenet5", "--epochs", "100000", "--output", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("epoch 1/100000")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.endswith("cnnrs train: interrupted\n")
    assert not path.exists()


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_reader_that_goes_away() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        command = [sys.executable, "-m", "cnnrs", "doctor"]
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == ""


def test_program_errors_help_and_version() -> None:
    done = program("predict", "none.png")
    assert done.returncode == 2
    check_one_line(done.stderr, "none.png")
    done = program("--help")
    assert done.returncode == 0
    for name in ("train", "eval", "predict", "summary", "bench", "doctor"):
        assert f"    {name} " in done.stdout
    assert program("--version").stdout == f"cnnrs {cnnrs.__version__}\n"


# pictures


def test_draw() -> None:
    image = np.array([[0, 255, 128], [0, 255, 0], [255, 60, 0]], np.uint8)
    assert draw(image, BLOCKS) == [" █░", "▒  "]
    assert draw(image[..., np.newaxis], " #") == [" # ", "   "]
    assert draw(np.full((2, 1), 255, np.uint8), ASCII) == ["@"]
    with pytest.raises(ShapeError, match=r"expected \(H, W\) or \(H, W, 1\), got \(2, 2, 3\)"):
        draw(np.zeros((2, 2, 3), np.uint8), BLOCKS)


def test_draw_row_wraps_and_captions() -> None:
    images = [np.full((2, 4), value, np.uint8) for value in (255, 0, 255)]
    text = draw_row(images, ["a", "b", "longer"], " #", width=10)
    assert text == "####\n a     b\n####\nlong"
    assert draw_row(images, ["a", "b", "c"], " #", width=1).count("\n") == 5
    assert draw_row([], [], " #") == ""


@pytest.mark.parametrize(
    ("encoding", "ramp"), [("utf-8", BLOCKS), ("cp437", BLOCKS), ("ascii", ASCII), ("latin-1", ASCII)]
)
def test_ramp_by_encoding(encoding: str, ramp: str) -> None:
    assert choose_ramp(io.TextIOWrapper(io.BytesIO(), encoding=encoding)) == ramp
    assert choose_ramp(io.StringIO()) == ASCII
