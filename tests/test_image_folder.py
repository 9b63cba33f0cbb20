"""Pictures in class folders: what counts, in which order, in memory and batch by batch, and what is refused."""

from __future__ import annotations

import copy
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnrs
from cnnrs import DataError, Preprocessing, Trainer, _decode, datasets, nn, optim
from cnnrs import functional as F
from cnnrs.datasets import ImageFolder, image_folder
from test_resize import noise, resize

image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def write(path: Path, shape: tuple[int, int] = (8, 6), value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(np.full((*shape, 3), value, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes, 5 + 3 + 4 pictures; the value of a picture is its place in the order."""
    folder = tmp_path / "pictures"
    order = ["ant/1.png", "ant/10.png", "ant/2.png", "ant/b.BMP", "ant/sub/0.png", "bee/x.jpeg", "bee/y.jpg"]
    order += ["bee/z.webp", "cat/a/1.gif", "cat/a/2.tif", "cat/a.ppm", "cat/b/1.png"]
    for value, name in enumerate(order):
        write(folder / name, value=value)
    return folder


@pytest.fixture(autouse=True)
def no_threads_are_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("cnnrs-decode") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "threads that decode are left"
        time.sleep(0.01)


LABELS = [0] * 5 + [1] * 3 + [2] * 4


def values(images: Any) -> list[int]:
    """The places that pictures were written with; JPEG keeps flat ones to a level or so."""
    return [int(x) for x in images[:, 0, 0, 0]]


def test_order_and_labels(root: Path) -> None:
    data = image_folder(root)
    assert isinstance(data, datasets.Dataset)
    assert data.classes == ("ant", "bee", "cat")
    assert data.labels.tolist() == LABELS
    assert data.images.shape == (12, 8, 6, 3)
    assert data.images.dtype == np.uint8
    np.testing.assert_allclose(data.images[:, 0, 0, 0], np.arange(12), atol=1)
    assert data.skipped == ()
    folder = ImageFolder(str(root))
    assert len(folder) == 12
    assert folder.classes == data.classes
    assert folder.labels.tolist() == LABELS
    assert not folder.labels.flags.writeable
    assert [Path(path).name for path in folder.paths[:5]] == ["1.png", "10.png", "2.png", "b.BMP", "0.png"]
    assert repr(folder) == "ImageFolder(12 pictures, 3 classes)"


def test_what_does_not_count(root: Path) -> None:
    expected = ImageFolder(root).paths
    for name in ("readme.txt", ".hidden/1.png", "ant/.1.png", "ant/notes.md", "ant/.sub/1.png", "loose.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"nothing")
    os.mkfifo(root / "ant" / "pipe.png")
    assert ImageFolder(root).paths == expected
    assert ImageFolder(root).classes == ("ant", "bee", "cat")


def test_links(root: Path, tmp_path: Path) -> None:
    before = len(ImageFolder(root))
    write(tmp_path / "else" / "far.png", value=99)
    (root / "bee" / "back").symlink_to(root)  # a circle
    (root / "bee" / "itself").symlink_to(root / "bee" / "itself")
    (root / "bee" / "itself.png").symlink_to(root / "bee" / "itself.png")
    folder = ImageFolder(root)
    found = [path for path, label in zip(folder.paths, folder.labels, strict=True) if label == 1]
    assert sum("back" in path for path in found) == before - 3  # once each, without those of bee
    (root / "bee" / "back").unlink()
    (root / "bee" / "itself.png").unlink()
    (root / "bee" / "aside").symlink_to(tmp_path / "else")
    (root / "dog").symlink_to(tmp_path / "else")
    assert ImageFolder(root).classes == ("ant", "bee", "cat", "dog")
    assert len(ImageFolder(root)) == before + 2


def test_bad_folders(tmp_path: Path, root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        image_folder(tmp_path / "none")
    with pytest.raises(NotADirectoryError):
        image_folder(root / "ant" / "1.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: expected a folder for each class, there is none"):
        image_folder(tmp_path / "empty")
    (root / "dog").mkdir()
    (root / "dog" / "a.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"dog: expected pictures \(\.bmp, .*, there are none"):
        image_folder(root)


def test_sizes_must_agree(root: Path) -> None:
    write(root / "bee" / "w.png", (8, 7))
    text = r"w\.png: expected 8x6 pixels as in .*ant/1\.png, got 8x7; preprocessing= or size= makes"
    with pytest.raises(DataError, match=text):
        image_folder(root)
    with pytest.raises(DataError, match=text):
        list(ImageFolder(root).batches(4))
    assert image_folder(root, size=5).images.shape == (13, 5, 5, 3)


def test_size_and_preprocessing(root: Path) -> None:
    for path in root.rglob("*.*"):
        if path.is_file():
            path.unlink()
    pictures = {name: noise((20 + i, 31 - i, 3), i) for i, name in enumerate(["ant/1.png", "bee/1.png", "bee/2.png"])}
    (root / "cat" / "a.png").parent.mkdir(exist_ok=True)
    for name, array in (pictures | {"cat/1.png": noise((9, 9, 3))}).items():
        image.fromarray(array).save(root / name)
    arrays = [*pictures.values(), noise((9, 9, 3))]
    stretched = image_folder(root, size=(7, 11), interpolation="bicubic").images
    for array, expected in zip(arrays, stretched, strict=True):
        np.testing.assert_array_equal(resize(array[np.newaxis], (7, 11), "bicubic")[0], expected)
    preprocessing = Preprocessing(resize=16, crop=12)
    np.testing.assert_array_equal(image_folder(root, preprocessing=preprocessing).images, preprocessing(arrays))


def test_same_for_any_number_of_threads(root: Path) -> None:
    expected = image_folder(root, threads=1)
    for threads in (2, 5, None):
        folder = ImageFolder(root, threads=threads)
        data = folder.load()
        np.testing.assert_array_equal(data.images, expected.images)
        pairs = zip(folder.batches(5, True, 3), ImageFolder(root, threads=1).batches(5, True, 3), strict=True)
        for (x, y), (one_x, one_y) in pairs:
            np.testing.assert_array_equal(x, one_x)
            np.testing.assert_array_equal(y, one_y)


# damaged files


def damage(root: Path) -> list[str]:
    whole = root / "bee" / "x.jpeg"
    image.fromarray(noise((8, 6, 3))).save(whole, quality=95)
    whole.write_bytes(whole.read_bytes()[:-60])
    (root / "ant" / "10.png").write_bytes(b"no picture")
    (root / "cat" / "a.ppm").unlink()
    (root / "cat" / "a.ppm").symlink_to("/nowhere/at all")
    return [str(root / name) for name in ("ant/10.png", "bee/x.jpeg", "cat/a.ppm")]


def test_broken_files_are_raised_by_name(root: Path) -> None:
    damage(root)
    with pytest.raises(DataError, match=r"ant/10\.png: expected a picture"):
        image_folder(root)
    write(root / "ant" / "10.png")
    with pytest.raises(DataError, match=r"bee/x\.jpeg: expected a picture: .*truncated"):
        image_folder(root)
    write(root / "bee" / "x.jpeg")
    with pytest.raises(FileNotFoundError, match=r"cat/a\.ppm"):
        image_folder(root)


def test_broken_files_are_skipped_and_listed(root: Path) -> None:
    broken = damage(root)
    data = image_folder(root, on_error="skip")
    assert data.skipped == tuple(broken)
    assert data.labels.tolist() == [0] * 4 + [1] * 2 + [2] * 3
    assert len(data.images) == 9
    for restored in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):
        assert restored.skipped == data.skipped
        np.testing.assert_array_equal(restored.images, data.images)
    assert data[:2].images.shape[0] == len(data.take(2)) == len(data.subset([0, 1])) == 2
    folder = ImageFolder(root, on_error="skip")
    assert folder.skipped == ()
    batches = folder.batches(2)
    assert [len(y) for _, y in batches] == [1, 2, 1, 2, 2, 1]  # the second, sixth and eleventh are missing
    assert sum(len(y) for _, y in batches) == 9
    assert folder.skipped == tuple(broken)


def test_a_batch_of_broken_files_is_left_out(root: Path) -> None:
    for name in ("1.png", "10.png"):
        (root / "ant" / name).write_bytes(b"")
    assert [len(y) for _, y in ImageFolder(root, on_error="skip").batches(2)] == [2, 2, 2, 2, 2]


def test_all_files_broken(root: Path) -> None:
    for path in ImageFolder(root).paths:
        Path(path).write_bytes(b"")
    with pytest.raises(DataError, match="expected pictures, all 12 were skipped"):
        image_folder(root, on_error="skip")
    assert list(ImageFolder(root, on_error="skip").batches(5)) == []


def test_too_many_pixels(root: Path) -> None:
    write(root / "bee" / "large.png", (9, 6))
    with pytest.raises(DataError, match=r"large\.png: expected at most 53 pixels, got 6x9"):
        image_folder(root, max_pixels=53, size=4)
    data = image_folder(root, max_pixels=53, size=4, on_error="skip")
    assert data.skipped == (str(root / "bee" / "large.png"),)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"on_error": "warn"}, ValueError, 'on_error must be "raise" or "skip", got \'warn\''),
        ({"size": 0}, ValueError, "size must be an int or an"),
        ({"size": 1 << 21}, ValueError, "size must be at most 1048576"),
        ({"size": 4, "preprocessing": Preprocessing()}, ValueError, "preprocessing and size both"),
        ({"preprocessing": "imagenet"}, TypeError, "preprocessing must be a cnnrs.Preprocessing"),
        ({"interpolation": "nearest"}, ValueError, "interpolation must be"),
        ({"max_pixels": 0}, ValueError, "max_pixels must be from 1"),
        ({"threads": 1.0}, TypeError, "threads must be an int"),
        ({"threads": 0}, ValueError, "threads must be from 1 to 256"),
    ],
)
def test_bad_options(root: Path, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^ImageFolder: {text}"):
        image_folder(root, **options)


# batches


def test_batches_in_order(root: Path) -> None:
    batches = ImageFolder(root).batches(5)
    assert len(batches) == 3
    for _ in range(2):
        seen = list(batches)
        assert [len(y) for _, y in seen] == [5, 5, 2]
        assert np.concatenate([y for _, y in seen]).tolist() == LABELS
        for x, y in seen:
            assert x.dtype == np.uint8
            assert y.dtype == np.int64
    assert batches.epoch == 2


def test_shuffling_depends_on_seed_and_epoch(root: Path) -> None:
    folder = ImageFolder(root)

    def order(batches: Any) -> list[int]:
        return [value for x, _ in batches for value in values(x)]

    batches = folder.batches(5, shuffle=True, seed=7)
    first, second = order(batches), order(batches)
    assert sorted(first) == sorted(second) != first
    assert first != second
    again = folder.batches(3, shuffle=True, seed=7)
    assert order(again) == first
    again.epoch = 1
    assert order(again) == second
    assert order(folder.batches(5, shuffle=True, seed=8)) != first


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be from 1"),
        ({"batch_size": "4"}, TypeError, "batch_size must be an int"),
        ({"batch_size": 1, "seed": -1}, ValueError, "seed must be from 0"),
        ({"batch_size": 1, "shuffle": 1}, TypeError, "shuffle must be True or False"),
    ],
)
def test_bad_batches(root: Path, arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=rf"^ImageFolder\.batches: {text}"):
        ImageFolder(root).batches(**arguments)
    batches = ImageFolder(root).batches(2)
    batches.epoch = -1
    with pytest.raises(ValueError, match="epoch must be from 0"):
        iter(batches)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.head(F.global_avg_pool2d(F.relu(self.conv(x))))


def test_training_and_evaluation(root: Path) -> None:
    def train(threads: int) -> tuple[list[float], dict[str, float]]:
        cnnrs.manual_seed(0)
        trainer = Trainer(Net(), optim.SGD(lr=0.1))
        folder = ImageFolder(root, threads=threads)
        history = trainer.fit(folder.batches(5, shuffle=True), validation=folder.batches(4), epochs=2)
        return history["loss"], trainer.evaluate(folder.batches(5))

    losses, result = train(1)
    assert len(losses) == 2
    assert (losses, result) == train(3)
    in_memory = image_folder(root)
    cnnrs.manual_seed(0)
    trainer = Trainer(Net(), optim.SGD(lr=0.1))
    assert trainer.evaluate(in_memory) == pytest.approx(trainer.evaluate(ImageFolder(root).batches(5)), rel=1e-5)


def decoding_threads() -> int:
    return sum(thread.name.startswith("cnnrs-decode") for thread in threading.enumerate())


def test_threads_end_with_the_pass(root: Path) -> None:
    batches = ImageFolder(root, threads=3).batches(2)
    assert decoding_threads() == 0
    running = iter(batches)
    next(running)
    assert decoding_threads() > 0
    del running  # given up
    assert decoding_threads() == 0

    def interrupted() -> None:
        for _ in batches:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert decoding_threads() == 0
    (root / "bee" / "x.jpeg").write_bytes(b"")
    with pytest.raises(DataError):
        list(batches)
    assert decoding_threads() == 0


def test_a_failing_step_ends_the_threads(root: Path) -> None:
    write(root / "bee" / "x.jpeg", (9, 9))
    trainer = Trainer(Net(), optim.SGD(lr=0.1))
    with pytest.raises(DataError, match="expected 8x6 pixels"):
        trainer.fit(ImageFolder(root, threads=2).batches(2), epochs=1)
    assert decoding_threads() == 0


def test_ctrl_c(root: Path, run_python: Callable[..., Any]) -> None:
    program = (
        "import os, signal, sys, threading\n"
        "from cnnrs.datasets import ImageFolder\n"
        "try:\n"
        "    for number, _ in enumerate(ImageFolder(sys.argv[1], threads=2).batches(1)):\n"
        "        if number == 3: os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped', threading.active_count())"
    )
    done = run_python(program, str(root), timeout=60)
    assert done.stdout.strip() == "stopped 1", done.stderr


def test_forks(root: Path, run_python: Callable[..., Any]) -> None:
    """A child reads pictures on threads of its own, and is told that it cannot go on with its parent's pass."""
    program = (
        "import os, sys, warnings\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        "from cnnrs import _decode\n"
        "from cnnrs.datasets import ImageFolder, image_folder\n"
        "running = iter(ImageFolder(sys.argv[1], threads=2).batches(1))\n"
        "next(running)\n"
        "with _decode._header:\n"
        "    child = os.fork()\n"
        "if child == 0:\n"
        "    try:\n"
        "        for _ in range(12): next(running)\n"
        "    except RuntimeError as error:\n"
        "        print(error, flush=True)\n"
        "    print(len(image_folder(sys.argv[1], threads=2)), flush=True)\n"
        "    sys.exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "print(1 + sum(1 for _ in running))"
    )
    done = run_python(program, str(root), timeout=60)
    first, *rest = done.stdout.splitlines()
    assert "begin anew in the child" in first, done.stderr
    assert rest == ["12", "12"], done.stderr


# decoding ahead


def test_map_ahead_keeps_order_and_bounds() -> None:
    running, most, lock = 0, 0, threading.Lock()
    begun: list[int] = []

    def slow(item: int) -> int:
        nonlocal running, most
        with lock:
            begun.append(item)
            running += 1
            most = max(most, running)
        time.sleep(0.002 * (item % 3))
        with lock:
            running -= 1
        return item * item

    results = _decode.map_ahead(slow, range(30), 4, 6)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(begun) <= 7
    assert list(results) == [item * item for item in range(1, 30)]
    assert 1 < most <= 4
    assert list(_decode.map_ahead(slow, range(3), 1)) == [0, 1, 4]
    assert list(_decode.map_ahead(slow, [], 3)) == []


def test_map_ahead_passes_errors_on() -> None:
    def fail(item: int) -> int:
        if item == 5:
            msg = "five"
            raise ValueError(msg)
        return item

    seen: list[int] = []
    with pytest.raises(ValueError, match="five"):
        seen.extend(_decode.map_ahead(fail, range(100), 3))
    assert seen == list(range(5))
    assert decoding_threads() == 0
