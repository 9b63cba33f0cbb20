"""CIFAR-10 in each of its forms, with small batches; the real images if they are here."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnrs import DataError, datasets
from cnnrs.datasets import cifar
from cnnrs.datasets._cifar_batches import parse_batch

COUNT = 20
NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Batches of 20 images, and no data set but the test's own."""
    if "real" not in request.node.name:
        monkeypatch.setattr(cifar, "PER_BATCH", COUNT)
        monkeypatch.delenv("CNNRS_DATA", raising=False)
        monkeypatch.setenv("CNNRS_CACHE", str(tmp_path / "no cache"))
        monkeypatch.setenv("CNNRS_OFFLINE", "1")


def images_of(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)


def labels_of(seed: int) -> list[int]:
    return [(place * 3 + seed) % 10 for place in range(COUNT)]


def rows(seed: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(images_of(seed).transpose(0, 3, 1, 2)).reshape(COUNT, 3072)


def python_batch(seed: int, protocol: int = 2) -> bytes:
    """A batch as Python 3 and today's NumPy pickle it."""
    batch = {
        b"data": rows(seed),
        b"labels": labels_of(seed),
        b"batch_label": b"a batch",
        b"filenames": [b"a.png"] * COUNT,
    }
    return pickle.dumps(batch, protocol)


def python2_batch(seed: int) -> bytes:
    """A batch as Python 2 and its NumPy pickled it: texts of bytes, by hand."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    data = rows(seed).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85" + text(b"b") + b"\x87Rq\x05"
        b"(K\x01" + b"M" + COUNT.to_bytes(2, "little") + b"M\x00\x0c\x86"
        b"cnumpy\ndtype\nq\x06" + text(b"u1") + b"K\x00K\x01\x87Rq\x07(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89T" + len(data).to_bytes(4, "little") + data + b"tb"
    )
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in labels_of(seed)) + b"e"
    return b"\x80\x02}q\x01(" + text(b"data") + array + text(b"labels") + labels + b"u."


def binary_batch(seed: int) -> bytes:
    return np.concatenate([np.array(labels_of(seed), np.uint8)[:, np.newaxis], rows(seed)], axis=1).tobytes()


PICKLES: dict[str, Callable[[int], bytes]] = {
    "python 2": python2_batch,
    **{f"protocol {p}": lambda seed, p=p: python_batch(seed, p) for p in range(1, 5)},  # type: ignore[misc]
}


def write_folder(folder: Path, make: Callable[[int], bytes], suffix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(NAMES):
        (folder / f"{name}{suffix}").write_bytes(make(seed))


def write_archive(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def python_files() -> dict[str, bytes]:
    inside = "cifar-10-batches-py/"
    return {f"{inside}{name}": python2_batch(seed) for seed, name in enumerate(NAMES)} | {f"{inside}readme.html": b"hi"}


def check(loaded: tuple[datasets.Dataset, datasets.Dataset]) -> None:
    train, test = loaded
    assert train.images.dtype == test.images.dtype == np.uint8
    np.testing.assert_array_equal(train.images, np.concatenate([images_of(seed) for seed in range(5)]))
    np.testing.assert_array_equal(test.images, images_of(5))
    assert train.labels.tolist() == [label for seed in range(5) for label in labels_of(seed)]
    assert test.labels.tolist() == labels_of(5)
    assert train.classes == test.classes == cifar.CLASSES
    assert train.classes[0] == "airplane"
    assert train.classes[9] == "truck"


# pickles


@pytest.mark.parametrize("form", PICKLES)
def test_pickles_of_any_age(form: str) -> None:
    images, labels = parse_batch(PICKLES[form](3), "b", COUNT)
    np.testing.assert_array_equal(images, images_of(3))
    assert labels.tolist() == labels_of(3)
    assert images.flags.c_contiguous


def test_the_old_name_of_numpy_and_text_keys() -> None:
    content = pickle.dumps({"data": rows(0), "labels": labels_of(0)}, 2)
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(parse_batch(old, "b", COUNT)[0], images_of(0))
    columns_first = pickle.dumps({"data": np.asfortranarray(rows(0)), "labels": labels_of(0)}, 2)
    np.testing.assert_array_equal(parse_batch(columns_first, "b", COUNT)[0], images_of(0))


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch hostile",)


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (Hostile(), r"posix\.system.* is not allowed"),
        ({b"data": Hostile()}, r"posix\.system.* is not allowed"),
        ([], "expected a dict, got list"),
        ({b"labels": []}, "expected an entry 'data'"),
        ({b"data": rows(0)}, "expected an entry 'labels'"),
        ({b"data": b"x", b"labels": []}, "data: expected an array of shape .*, got bytes"),
        ({b"data": rows(0)[1:], b"labels": labels_of(0)}, r"data: expected an array .* got shape \(19, 3072\)"),
        ({b"data": rows(0), b"labels": labels_of(0)[1:]}, "labels: expected a list of 20 ints, got 19"),
        ({b"data": rows(0), b"labels": tuple(labels_of(0))}, "labels: expected a list of 20 ints, got tuple"),
        ({b"data": rows(0), b"labels": [10] * COUNT}, "labels: expected each from 0 to 9, got 10 at place 0"),
        ({b"data": rows(0), b"labels": [0, -1] * 10}, "got -1 at place 1"),
        ({b"data": rows(0), b"labels": [0.0] * COUNT}, "got float at place 0"),
        ({b"data": rows(0), b"labels": [True] * COUNT}, "got bool at place 0"),
        ({b"data": rows(0).astype(np.int16), b"labels": labels_of(0)}, "dtype does not take these|expected u1"),
        ({b"data": rows(0).astype(np.float32), b"labels": labels_of(0)}, "dtype does not take these|expected u1"),
    ],
)
def test_other_pickles_are_refused(batch: Any, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=text):
        parse_batch(pickle.dumps(batch, 2), "b", COUNT)
    assert not (tmp_path / "hostile").exists()


def test_damaged_pickles_are_refused() -> None:
    whole = python2_batch(0)
    for length in (0, 1, 10, 60, 100, 130, len(whole) // 2, len(whole) - 1):
        with pytest.raises(DataError, match=r"^b: "):
            parse_batch(whole[:length], "b", COUNT)
    random = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        content[int(random.integers(0, 170))] ^= int(random.integers(1, 256))
        try:
            images, labels = parse_batch(bytes(content), "b", COUNT)
        except DataError:
            continue
        assert images.shape == (COUNT, 32, 32, 3)
        assert labels.max() <= 9


# places and forms


@pytest.mark.parametrize("place", ["", "cifar10"])
@pytest.mark.parametrize("inside", ["cifar-10-batches-py", ""])
def test_unpacked_python_batches(tmp_path: Path, place: str, inside: str) -> None:
    write_folder(tmp_path / place / inside, python2_batch)
    check(datasets.cifar10(tmp_path, download=False))


@pytest.mark.parametrize("inside", ["cifar-10-batches-bin", ""])
def test_unpacked_binary_batches(tmp_path: Path, inside: str) -> None:
    write_folder(tmp_path / inside, binary_batch, ".bin")
    check(datasets.cifar10(str(tmp_path)))


def test_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path / "a" / "cifar-10-python.tar.gz", python_files())
    files = {f"cifar-10-batches-bin/{name}.bin": binary_batch(seed) for seed, name in enumerate(NAMES)}
    write_archive(tmp_path / "b" / "cifar-10-binary.tar.gz", files)
    for name in ("a", "b"):
        check(datasets.cifar10(tmp_path / name))
        monkeypatch.setenv("CNNRS_DATA", str(tmp_path / name))
        check(datasets.cifar10())
    monkeypatch.delenv("CNNRS_DATA")
    write_archive(tmp_path / "no cache" / "cifar10" / "cifar-10-python.tar.gz", python_files())
    check(datasets.cifar10())
    check(datasets.cifar10(tmp_path / "nothing here"))


def test_the_root_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "data" / "cifar-10-batches-bin", lambda _: b"wrong", ".bin")
    monkeypatch.setenv("CNNRS_DATA", str(tmp_path / "data"))
    write_folder(tmp_path / "root", binary_batch, ".bin")
    check(datasets.cifar10(tmp_path / "root"))
    with pytest.raises(DataError, match=r"data_batch_1\.bin: expected 61460 bytes, 20 images of 3073, got 5"):
        datasets.cifar10()


def test_it_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"cifar10: .* not found in .*CNNRS_OFFLINE forbids"):
        datasets.cifar10(tmp_path)
    monkeypatch.delenv("CNNRS_OFFLINE")
    with pytest.raises(FileNotFoundError, match=r"download=False was passed .*cifar-10-python\.tar\.gz"):
        datasets.cifar10(download=False)


def test_bad_files(tmp_path: Path) -> None:
    write_folder(tmp_path, binary_batch, ".bin")
    wrong = bytearray(binary_batch(2))
    wrong[3073 * 7] = 10
    (tmp_path / "data_batch_3.bin").write_bytes(wrong)
    with pytest.raises(DataError, match=r"data_batch_3\.bin: label at offset 21511: expected 0 to 9, found 10"):
        datasets.cifar10(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_3\.bin"):
        datasets.cifar10(tmp_path)
    (tmp_path / "data_batch_3.bin").mkdir()
    with pytest.raises(DataError, match=r"data_batch_3\.bin: expected a regular file"):
        datasets.cifar10(tmp_path)


def test_bad_archives(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    files = python_files()
    write_archive(path, {name: content for name, content in files.items() if "batch_4" not in name})
    with pytest.raises(DataError, match=r"python\.tar\.gz: expected a member 'cifar-10-batches-py/data_batch_4'"):
        datasets.cifar10(tmp_path)
    write_archive(path, files | {"cifar-10-batches-py/data_batch_2": python2_batch(1)[:-9]})
    with pytest.raises(DataError, match=r"python\.tar\.gz: 'cifar-10-batches-py/data_batch_2': "):
        datasets.cifar10(tmp_path)
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match=r"data_batch_1': expected a plain file or a folder"):
        datasets.cifar10(tmp_path)
    path.write_bytes(b"this is no archive")
    with pytest.raises(DataError, match="expected that of a tar archive"):
        datasets.cifar10(tmp_path)


@pytest.fixture
def server() -> Iterator[Callable[[Path], str]]:
    """Serve a folder on this machine; gives its address."""
    running = []

    def serve(folder: Path) -> str:
        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
                pass

        httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        running.append(httpd)
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{httpd.server_port}/"

    yield serve
    for httpd in running:
        httpd.shutdown()
        httpd.server_close()


def test_download_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Callable[[Path], str]) -> None:
    write_archive(tmp_path / "server" / "cifar-10-python.tar.gz", python_files())
    content = (tmp_path / "server" / "cifar-10-python.tar.gz").read_bytes()
    monkeypatch.delenv("CNNRS_OFFLINE")
    monkeypatch.setattr(cifar, "_MIRROR", server(tmp_path / "server"))
    with pytest.raises(DataError, match="MD5: expected c58f30108f718f92721af3b95e74349a, found"):
        datasets.cifar10(tmp_path / "root")
    assert not list((tmp_path / "root").rglob("*.gz"))
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    version = cifar.Version("cifar-10-batches-py", "cifar-10-python.tar.gz", digest, "", parse_batch)
    monkeypatch.setattr(cifar, "VERSIONS", (version, *cifar.VERSIONS[1:]))
    check(datasets.cifar10(tmp_path / "root"))
    assert (tmp_path / "root" / "cifar10" / "cifar-10-python.tar.gz").read_bytes() == content
    check(datasets.cifar10(tmp_path / "root", download=False))


# pictures


@pytest.fixture
def pictures() -> dict[str, bytes]:
    """Names and contents of PNG images: the training images in order of their classes."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    files = {}
    for half, count in (("train", 5 * COUNT), ("test", COUNT)):
        per_class = count // 10
        for place in range(count):
            target = io.BytesIO()
            array = np.full((32, 32, 3), (place, place % per_class, 255 if half == "test" else 0), np.uint8)
            image.fromarray(array).save(target, "PNG")
            files[f"{half}/{cifar.CLASSES[place // per_class]}/{place % per_class:04}.png"] = target.getvalue()
    return files


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("threads", [1, 3])
def test_archives_of_pictures(
    pictures: dict[str, bytes], tmp_path: Path, mode: str, threads: int, restore_threads: None
) -> None:
    import cnnrs

    cnnrs.set_num_threads(threads)
    suffix = mode[1:].replace(":", ".")
    shuffled = dict(sorted(pictures.items(), key=lambda item: hashlib.md5(item[0].encode()).digest()))
    write_archive(tmp_path / f"cifar10-images.tar{suffix}", shuffled | {"train/._junk.png": b"", "readme": b"x"}, mode)
    train, test = datasets.cifar10(tmp_path)
    assert train.images[:, 0, 0, 0].tolist() == list(range(100))
    assert test.images[:, 31, 31, 0].tolist() == list(range(20))
    assert (test.images[..., 2] == 255).all()
    assert train.labels.tolist() == sorted(list(range(10)) * 10)
    assert test.labels.tolist() == sorted(list(range(10)) * 2)


def test_bad_archives_of_pictures(pictures: dict[str, bytes], tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    other = io.BytesIO()
    image.new("RGB", (31, 33)).save(other, "PNG")
    large = io.BytesIO()
    image.new("RGB", (33, 33)).save(large, "PNG")
    first = "train/airplane/0000.png"
    left_out = {name: content for name, content in pictures.items() if name != first}
    cases = [
        (pictures | {first: b"no picture"}, rf"images\.tar: '{first}': expected a picture"),
        (pictures | {first: other.getvalue()}, rf"'{first}': expected 32x32 pixels, got 33x31"),
        (pictures | {first: large.getvalue()}, rf"'{first}': expected at most 1024 pixels, got 33x33"),
        (left_out, r"images\.tar: expected 100 images in train, got 99"),
        (pictures | {"test/truck/9.png": pictures[first]}, "expected 20 images in test, there are more"),
        (left_out | {f"x/{first}": pictures[first], f"y/{first}": pictures[first]}, "in train, there are more"),
        (left_out | {"train/unicorn/0.png": pictures[first]}, "'train/unicorn/0.png': expected a name like"),
        (left_out | {"0.png": pictures[first]}, "'0.png': expected a name like"),
        (left_out | {"train/truck/0000.PNG": b"\x00" * 70000}, r"truck/0000.PNG': expected at most 65536 bytes"),
    ]
    for files, text in cases:
        write_archive(tmp_path / "cifar10-images.tar", files, "w")
        with pytest.raises(DataError, match=text):
            datasets.cifar10(tmp_path)
    del left_out["train/airplane/0001.png"]
    twice = left_out | {"x/train/bird/a.png": pictures[first], "y/train/bird/a.png": pictures[first]}
    write_archive(tmp_path / "cifar10-images.tar", twice, "w")
    with pytest.raises(DataError, match=r"'train/bird/a\.png': expected it once, it is there twice"):
        datasets.cifar10(tmp_path)


def test_real_pictures(cifar10_pictures: tuple[datasets.Dataset, datasets.Dataset]) -> None:
    from PIL import Image

    train, test = cifar10_pictures
    assert train.images.shape == (50000, 32, 32, 3)
    assert test.images.shape == (10000, 32, 32, 3)
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    with tarfile.open(Path(os.environ["CNNRS_DATA"], "cifar10-images.tar.xz")) as tar:  # the first ones in the archive
        for _ in range(40):
            member = tar.next()
            if member is not None and member.isfile():
                half, name, file = member.name.split("/")
                place = cifar.CLASSES.index(name) * 5000 + int(file[:4])
                assert half == "train"
                with Image.open(tar.extractfile(member)) as picture:
                    np.testing.assert_array_equal(train.images[place], np.asarray(picture.convert("RGB")))
