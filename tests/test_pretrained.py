"""Published weights: the manifest's facts, files found and downloaded, models that are told what they need."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnrs
from cnnrs import functional as F
from cnnrs import models, nn
from cnnrs.cli import main
from cnnrs.models import PublishedWeights, _manifest, _pretrained
from cnnrs.models._base import ImageClassifier
from test_download import listing, refused_url
from web_server import File, Server, failing

__all__ = ["refused_url"]  # a fixture

IMAGENET_MODELS = (
    ["alexnet"]
    + [f"vgg{depth}{suffix}" for depth in (11, 13, 16, 19) for suffix in ("", "_bn")]
    + [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]
)


# the manifest


def test_manifest_has_all_networks() -> None:
    records = models.list_weights()
    assert len(records) == 17
    assert {record.model for record in records} == set(IMAGENET_MODELS)
    assert len({(record.model, record.tag) for record in records}) == 17
    assert len({record.file for record in records}) == 17
    for name in IMAGENET_MODELS:
        own = models.list_weights(name)
        assert [record.is_default for record in own] == [False] * (len(own) - 1) + [True]
        assert max(own, key=lambda record: record.top1) is own[-1] is _manifest.find(name, "DEFAULT")


@pytest.mark.parametrize("record", models.list_weights(), ids=lambda record: record.file)
def test_manifest_is_consistent(record: PublishedWeights) -> None:
    assert re.fullmatch(r"[0-9a-f]{8}", record.sha256_prefix)
    assert record.file.endswith(f"-{record.sha256_prefix}.pth")
    assert record.sha256 is None or record.sha256.startswith(record.sha256_prefix)
    assert record.urls == (f"https://download.pytorch.org/models/{record.file}",)
    # a checkpoint is four bytes a parameter, at most a few hundred bytes a tensor, and running values
    assert 0 < record.min_bytes - 4 * record.params < 1_000_000
    assert 1047 <= record.max_bytes - record.min_bytes <= 1049
    assert 0 < record.top1 < record.top5 < 100
    assert record.crop == 224
    assert record.resize == (232 if record.tag == "IMAGENET1K_V2" else 256)
    assert (record.interpolation, record.num_classes, record.licence) == ("bilinear", 1000, "BSD-3-Clause")
    assert record.mean == (0.485, 0.456, 0.406)
    assert record.std == (0.229, 0.224, 0.225)
    assert "ImageNet" in record.terms


def test_manifest_knows_sizes_that_are_known() -> None:
    """Sizes in bytes of two files as the server announces them."""
    (resnet18,), resnet50 = models.list_weights("resnet18"), models.list_weights("resnet50")[0]
    assert resnet18.min_bytes <= 46_830_571 <= resnet18.max_bytes
    assert resnet50.min_bytes <= 102_530_333 <= resnet50.max_bytes


def test_list_weights() -> None:
    assert [record.tag for record in models.list_weights("resnet101")] == ["IMAGENET1K_V1", "IMAGENET1K_V2"]
    assert models.list_weights("lenet5") == []
    with pytest.raises(ValueError, match=r"^list_weights: there is no model 'resnet5'; near names: .*resnet50"):
        models.list_weights("resnet5")
    with pytest.raises(TypeError, match=r"^list_weights: name must be a str or None, got 5"):
        models.list_weights(5)  # type: ignore[arg-type]


def test_records_are_constant() -> None:
    models.list_weights().clear()
    with pytest.raises(AttributeError):
        models.list_weights()[0].top1 = 100.0  # type: ignore[misc]


def test_class_names() -> None:
    names = models.list_weights("alexnet")[0].classes
    assert len(names) == len(set(names)) == 1000
    assert all(name == name.strip() and name for name in names)
    assert (names[0], names[1], names[281], names[999]) == ("tench", "goldfish", "tabby", "toilet tissue")


def test_class_names_are_read_when_they_are_needed(run_python: Callable[..., Any]) -> None:
    program = """
import cnnrs, sys
from cnnrs.models import _manifest
assert _manifest.imagenet_classes.cache_info().misses == 0
assert not {"cnnrs._transfer", "urllib.request", "hashlib"} & set(sys.modules), sys.modules
"""
    result = run_python(program)
    assert result.returncode == 0, result.stderr


# a network whose weights a server on this machine publishes


class Net(ImageClassifier):
    """A small network with the outputs of ImageNet's."""

    classifier_names = ("fc",)

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__("net", num_classes)
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = self._classifier(4)

    def _features(self, x: Any) -> Any:
        return self.conv(x)

    def _head(self, x: Any) -> Any:
        return self.fc(F.global_avg_pool2d(x))


X = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
FILE = "net-00000000.safetensors"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no setting and no file of this machine in."""
    variables = ("CNNRS_DATA", "CNNRS_OFFLINE", "TORCH_HOME", "XDG_CACHE_HOME", "http_proxy", "HTTP_PROXY", "all_proxy")
    for name in variables:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CNNRS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def published(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Net:
    """The network that a server publishes as the weights "V1" and "V2" of `net`."""
    net = Net()
    net.save(tmp_path / "published")
    content = (tmp_path / "published").read_bytes()
    server.replies["/models/" + FILE] = File(content)
    record = replace(
        models.list_weights("resnet50")[0],
        model="net",
        tag="V1",
        file=FILE,
        urls=(f"{server.url}/models/{FILE}",),
        min_bytes=len(content) - 500,
        max_bytes=len(content) + 500,
        sha256_prefix=hashlib.sha256(content).hexdigest()[:8],
        is_default=False,
    )
    monkeypatch.setattr(_manifest, "WEIGHTS", (record, replace(record, tag="V2", resize=232, is_default=True)))
    return net


def make(weights: str | None = "V1", num_classes: int = 1000) -> Net:
    """Make the network as a function of the zoo does."""
    net = Net(num_classes)
    _pretrained.apply(net, "net", weights)
    return net


def check_loaded(net: Net, published: Net) -> None:
    np.testing.assert_array_equal(net(X), published(X))


def published_record() -> PublishedWeights:
    return _manifest.find("net", "V1")


def test_nothing_is_loaded_unless_asked_for(published: Net, server: Server) -> None:
    net = make(None)
    assert (net.preprocessing, net.classes) == (None, ())
    assert server.asked == []


@pytest.mark.parametrize(("tag", "resize"), [("V1", 256), ("V2", 232), ("DEFAULT", 232)])
def test_weights_are_downloaded_once_and_loaded(
    published: Net, server: Server, tmp_path: Path, tag: str, resize: int
) -> None:
    for _ in range(2):
        net = make(tag)
        check_loaded(net, published)
        assert net.classes == models.list_weights("net")[0].classes
        assert net.preprocessing is not None
        assert (net.preprocessing.resize, net.preprocessing.crop) == (resize, 224)
        assert net.preprocessing.interpolation == "bilinear"
        assert tuple(net.preprocessing.mean) == pytest.approx((0.485, 0.456, 0.406))
        assert tuple(net.preprocessing.std) == pytest.approx((0.229, 0.224, 0.225))
    assert server.asked == ["/models/" + FILE]
    assert listing(tmp_path / "cache" / "weights") == [FILE]


def test_other_classes_get_the_backbone(published: Net) -> None:
    cnnrs.manual_seed(3)
    fresh = Net(7)
    cnnrs.manual_seed(3)
    net = make(num_classes=7)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, (fresh if name.startswith("fc") else published).state_dict()[name])
    assert net.classes == ()
    assert net.preprocessing is not None


@pytest.mark.parametrize(
    ("weights", "kind"),
    [("v1", ValueError), ("IMAGENET", ValueError), ("", ValueError), (1, TypeError), (b"V1", TypeError)],
)
def test_unknown_tag_lists_those_there_are(published: Net, server: Server, weights: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r'^net: weights must be "V1" or "V2" or "DEFAULT" or None, got '):
        make(weights)
    assert server.asked == []


def test_network_without_published_weights() -> None:
    with pytest.raises(ValueError, match=r"^other: there are no published weights; weights must be None, got 'V1'$"):
        _pretrained.apply(Net(), "other", "V1")


def unchanged(kind: type[Exception], text: str) -> None:
    """Check that loading fails like this and leaves the network as it was."""
    net = Net()
    before = net.state_dict(copy=True)
    with pytest.raises(kind, match=text):
        _pretrained.apply(net, "net", "V1")
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert (net.preprocessing, net.classes) == (None, ())


def test_wrong_hash(published: Net, server: Server, tmp_path: Path) -> None:
    content = bytearray(server.replies["/models/" + FILE].content)
    content[-1] ^= 1
    server.replies["/models/" + FILE] = File(bytes(content))
    expected, found = published_record().sha256_prefix, hashlib.sha256(content).hexdigest()
    text = f'^weights "V1" of net: .*expected one that begins with {expected}, found {found}'
    unchanged(cnnrs.WeightsError, text)
    assert listing(tmp_path / "cache" / "weights") == []


def test_file_that_does_not_fit(
    published: Net, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash is right, but the file is another network's; the error names the file."""
    nn.Linear(3, 1000).save(tmp_path / "other")
    content = (tmp_path / "other").read_bytes()
    server.replies["/models/" + FILE] = File(content)
    size = len(content)
    record = replace(published_record(), sha256=hashlib.sha256(content).hexdigest(), min_bytes=size, max_bytes=size)
    monkeypatch.setattr(_manifest, "WEIGHTS", (record,))
    unchanged(cnnrs.WeightsError, FILE)


def test_missing_on_the_server_and_no_network(
    published: Net, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused_url: str
) -> None:
    folder = tmp_path / "cache" / "weights"
    server.replies["/models/" + FILE] = failing(404)
    unchanged(ConnectionError, rf"HTTP Error 404.* by hand and put it into {folder}, or")
    monkeypatch.setattr(_manifest, "WEIGHTS", (replace(published_record(), urls=(f"{refused_url}/{FILE}",)),))
    text = rf"refused.*download it from {refused_url}/{FILE} by hand and put it into {folder}"
    unchanged(ConnectionError, text)


# files that are here

PLACES = ["data/weights", "data", "cache/weights", "torch/hub/checkpoints"]


def put(tmp_path: Path, place: str, content: bytes | None = None) -> Path:
    """Put the published file, or another content, into a folder."""
    path = tmp_path / place / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((tmp_path / "published").read_bytes() if content is None else content)
    return path


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("offline", ["0", "1"])
def test_file_that_is_here_is_used_in_place(
    published: Net, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, offline: str
) -> None:
    monkeypatch.setenv("CNNRS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("CNNRS_OFFLINE", offline)
    path = put(tmp_path, place)
    check_loaded(make(), published)
    assert server.asked == []
    assert listing(path.parent) == [FILE]
    assert (tmp_path / "cache").exists() == (place == "cache/weights")


@pytest.mark.parametrize(
    ("variable", "value", "place"),
    [
        ("XDG_CACHE_HOME", "xdg", "xdg/torch/hub/checkpoints"),
        ("HOME", "home", "home/.cache/torch/hub/checkpoints"),
        ("TORCH_HOME", "~/here", "home/here/hub/checkpoints"),
    ],
)
def test_folder_of_torch_hub(
    published: Net,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    place: str,
) -> None:
    monkeypatch.setenv(variable, value if value.startswith("~") else str(tmp_path / value))
    put(tmp_path, place)
    check_loaded(make(), published)
    assert server.asked == []


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-600],
    "cut by little": lambda content: content[:-1],
    "bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "longer": lambda content: content + b"\0",
    "page": lambda content: b"<html>",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_never_used(
    published: Net, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, damage: str
) -> None:
    """In the cache it is replaced, elsewhere it is left alone; both with a warning that names it."""
    monkeypatch.setenv("CNNRS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    wrong = DAMAGES[damage]((tmp_path / "published").read_bytes())
    path = put(tmp_path, place, wrong)

    with monkeypatch.context() as patch:
        patch.setenv("CNNRS_OFFLINE", "1")
        unchanged(cnnrs.WeightsError, rf"{path}: .*expected .*, and CNNRS_OFFLINE forbids")
    assert server.asked == []
    with pytest.warns(RuntimeWarning, match=rf'^weights "V1" of net: not used, {path}: .*expected'):
        check_loaded(make(), published)
    assert (tmp_path / "cache" / "weights" / FILE).read_bytes() == (tmp_path / "published").read_bytes()
    if place != "cache/weights":
        assert path.read_bytes() == wrong


def test_right_file_behind_a_wrong_one(
    published: Net, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    put(tmp_path, "cache/weights", b"wrong")
    put(tmp_path, "torch/hub/checkpoints")
    check_loaded(make(), published)
    assert server.asked == []


def test_offline_names_the_folders_and_the_way_out(
    published: Net, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNRS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("CNNRS_OFFLINE", "1")
    with pytest.raises(FileNotFoundError) as caught:
        make()
    for place in PLACES:
        assert str(tmp_path / place) in str(caught.value)
    assert f"CNNRS_OFFLINE forbids to download it (download {server.url}/models/{FILE} once" in str(caught.value)
    assert server.asked == []
    assert not (tmp_path / "cache").exists()


def test_read_only_cache_gives_what_is_in_it(published: Net, server: Server, tmp_path: Path) -> None:
    path = put(tmp_path, "cache/weights")
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        check_loaded(make(), published)
    finally:
        path.parent.chmod(0o755)
    assert server.asked == []


def test_cache_that_cannot_be_written_is_found_before_the_download(
    published: Net, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CNNRS_CACHE", str(tmp_path / "file" / "cache"))
    unchanged(OSError, str(tmp_path / "file"))
    assert server.asked == []


# a network of the zoo


def test_resnet18_from_its_address_to_its_predictions(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = models.resnet18()
    source.save(tmp_path / "published")
    content = (tmp_path / "published").read_bytes()
    (known,) = models.list_weights("resnet18")
    # The published file, a checkpoint of torch, has about the size of a file of the same numbers.
    assert abs(len(content) - known.max_bytes) < 0.001 * known.max_bytes
    server.replies[f"/models/{known.file}"] = file = File(content)
    file.cuts = [len(content) // 2]
    record = replace(
        known,
        urls=(f"{server.url}/models/{known.file}",),
        min_bytes=len(content),
        max_bytes=len(content),
        sha256_prefix=hashlib.sha256(content).hexdigest()[:8],
    )
    monkeypatch.setattr(_manifest, "WEIGHTS", (record,))
    model = models.get_model("resnet18", weights="IMAGENET1K_V1")
    assert file.ranges == ["", f"bytes={len(content) // 2}-"]
    assert listing(tmp_path / "cache" / "weights") == ["resnet18-f37072fd.pth"]
    for name, array in source.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array)

    picture = np.random.default_rng(1).integers(0, 256, (240, 300, 3), np.uint8)
    labels, probabilities = model.predict([picture], top=3)
    expected = source(model.preprocessing(picture))
    np.testing.assert_array_equal(labels[0], np.argsort(-expected[0], kind="stable")[:3])
    assert probabilities.shape == (1, 3)
    assert all(model.classes[label] in known.classes for label in labels[0])

    other = models.resnet18(num_classes=5, weights="DEFAULT")
    assert other(model.preprocessing(picture)).shape == (1, 5)
    np.testing.assert_array_equal(other.state_dict()["conv1.weight"], source.state_dict()["conv1.weight"])
    assert (other.classes, other.preprocessing) == ((), model.preprocessing)


@pytest.mark.parametrize("name", ["alexnet_2012", "cifar_resnet20"])
def test_networks_of_the_zoo_without_published_weights(name: str) -> None:
    assert models.list_weights(name) == []
    with pytest.raises(ValueError, match=f"^{name}: there are no published weights; weights must be None"):
        models.get_model(name, weights="IMAGENET1K_V1")


def test_shipped_weights_are_untouched(server: Server) -> None:
    model = models.lenet5(weights="MNIST")
    assert (model.preprocessing, model.classes) == (None, ())
    with pytest.raises(ValueError, match=r'^lenet5: weights must be one of "MNIST", got'):
        models.lenet5(weights="DEFAULT")


# the command line


def test_command_lists_what_there_is(
    published: Net, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights"]) == 0
    head, first, second, terms = capsys.readouterr().out.splitlines()
    assert head.split() == ["model", "weights", "top-1", "top-5", "MiB", "licence", "file"]
    size = f"{published_record().max_bytes / 2**20:.1f}"
    assert first.split() == ["net", "V1", "76.13", "92.86", size, "BSD-3-Clause", "not", "here"]
    assert second.split()[:2] == ["net", "V2"]
    assert "ImageNet" in terms

    path = put(tmp_path, "cache/weights")
    assert main(["weights", "net"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith(f"BSD-3-Clause  {path}")
    path.write_bytes(b"wrong")
    assert main(["weights", "net"]) == 0
    assert f"BSD-3-Clause  {path}: expected " in capsys.readouterr().out.splitlines()[1]
    assert server.asked == []


def test_command_for_one_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "resnet152"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [
        ["resnet152", "IMAGENET1K_V1", "78.31"],
        ["resnet152", "IMAGENET1K_V2", "82.28"],
    ]
    assert main(["weights", "lenet5"]) == 0
    assert capsys.readouterr().out == "there are no weights of lenet5 to download\n"
    assert main(["weights", "resnet"]) == 2
    assert "near names" in capsys.readouterr().err


def test_doctor_tells_where_weights_are(
    published: Net, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folders = f"looked in {tmp_path / 'cache' / 'weights'}, {tmp_path / 'torch' / 'hub' / 'checkpoints'}"
    for count in (0, 2):  # both weights of the network are in one file
        assert main(["doctor"]) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["weights"])
        assert line.endswith(f"  {count} of 2 files, {folders}")
        put(tmp_path, "torch/hub/checkpoints")
