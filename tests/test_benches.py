"""The benchmarks' command line, tables, notes, plots and result files. No time is held to a bound."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from benches import plot
from benches.bench_coldstart import describe
from benches.bench_memory import share
from benches.bench_networks import Case, Gathering, Row, check, table, time_survivors
from benches.common import CheckError, Contestant, Hosts, Rounds, Summary, plain_reason, summarise
from benches.networks import NETWORKS, flops, macs
from benches.peers import WorkerError
from benches.results import Report, public_command
from benches.run import cases, command_line, main

from cnnrs import models


def summary(median: float) -> Summary:
    return summarise([median])


def test_lists_between_commas() -> None:
    given = "networks --networks resnet18,lenet5 --mode train,infer --batch 8,1,8 --runtimes ncnn --threads 2"
    options = command_line().parse_args(given.split())
    assert (options.networks, options.mode, options.batch) == (["resnet18", "lenet5"], ["train", "infer"], [8, 1])
    assert (options.runtimes, options.threads) == (["ncnn"], 2)
    name, found = cases(options)
    assert name == "resnet18-lenet5-train-infer-b8-b1"
    assert len(found) == 8
    assert found[1] == Case("resnet18", "train", 1)


def test_defaults_are_parsed_like_given_ones() -> None:
    options = command_line().parse_args(["networks"])
    assert options.networks == ["lenet5", "alexnet", "vgg16", "resnet18", "resnet50"]
    assert (options.mode, options.batch) == (["infer"], [1])
    assert command_line().parse_args(["memory"]).batch == [16]
    assert command_line().parse_args(["scaling", "--threads", "1,3"]).threads == [1, 3]
    assert command_line().parse_args(["coldstart", "--seeds", "4"]).seeds == [4]


@pytest.mark.parametrize(
    "wrong",
    [["--networks", "nonet"], ["--mode", "fly"], ["--batch", "0"], ["--batch", "x"], ["--networks", ","]],
)
def test_wrong_lists(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command_line().parse_args(["networks", *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_paths_stay_out_of_the_command() -> None:
    given = ["networks", "--torch-python", "/a/b", "--peer-python=/c/d", "--batch", "1", "--output", "/e"]
    assert public_command(given) == "python -m benches.run networks --batch 1"


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_flops(name: str) -> None:
    network = NETWORKS[name]
    facts = models.get_model(name).summary(network.image, 1)
    assert macs(name) == facts.macs
    first = next(row.macs for row in facts.rows if row.macs)
    assert flops(name, "infer", 3) == 6 * facts.macs
    assert flops(name, "train", 3) == 6 * (3 * facts.macs - first)
    assert facts.rows[-1].output_shape[1] == network.classes


def test_summarise() -> None:
    found = summarise([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.least, found.q1, found.median, found.q3, found.calls) == (1.0, 2.0, 3.0, 4.0, 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot open /usr/lib/x/libfoo.so: no\nmore", "cannot open libfoo.so: no"),
        ("ratio 3/4 of nothing", "ratio 3/4 of nothing"),
        ("", "no reason given"),
        ("'/a/b'", "'b'"),
    ],
)
def test_notes_hold_no_folders(text: str, expected: str) -> None:
    assert plain_reason(text) == expected


def rows() -> list[Row]:
    first = {"cnnrs": summary(0.01), "torch nchw": summary(0.02), "openvino": summary(0.015)}
    second = {"cnnrs": summary(0.04), "torch nchw": summary(0.03)}
    return [
        Row(Case("resnet18", "infer", 1), {"torch nchw": 1e-6, "openvino": 2e-6}, first),
        Row(Case("lenet5", "infer", 8), {"torch nchw": 3e-7}, second),
    ]


def test_table_of_networks() -> None:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(rows(), 400.0).splitlines()]
    assert lines[0][2:5] == ["cnnrs", "torch nchw", "openvino"]
    rate = 2e-9 * macs("resnet18") / 0.01
    assert lines[2][5:] == [f"{rate:.0f}", f"{rate / 4:.0f}", "openvino", "1.50x", "2.0e-06"]
    assert lines[3][4] == "-"
    assert lines[3][7:9] == ["torch nchw", "0.75x"]


def test_record_of_a_row() -> None:
    record = json.loads(json.dumps(rows()[0].record()))
    assert (record["network"], record["mode"], record["batch"]) == ("resnet18", "infer", 1)
    assert record["best_peer"] == "openvino"
    assert record["ratio"] == pytest.approx(1.5)
    alone = Row(Case("lenet5", "train", 1), {}, {"cnnrs": summary(1.0)})
    assert (alone.best_peer, alone.record()["ratio"]) == (None, None)


def test_check_holds_logits_and_losses() -> None:
    case, ours = Case("resnet18", "train", 2), {"error": None, "loss": 7.0}
    check(case, "torch", ours, {"error": 1e-5, "loss": 7.001})
    for theirs in ({"error": 1e-2, "loss": 7.0}, {"error": float("nan"), "loss": 7.0}, {"error": 0.0, "loss": 7.1}):
        with pytest.raises(CheckError, match="resnet18 train b2 torch"):
            check(case, "torch", ours, theirs)
    check(Case("vgg16", "train", 2), "torch", ours, {"error": 0.0, "loss": 9.0})  # dropout


class Fake:
    """A worker that answers, or dies when it is timed for the second time."""

    def __init__(self, *, dies: bool = False) -> None:
        self.dies = dies
        self.calls = 0

    def call(self, name: str, /, **arguments: Any) -> list[float]:
        self.calls += 1
        if self.dies and self.calls > 1:
            raise WorkerError("gone", self)  # type: ignore[arg-type]  # noqa: EM101
        return [0.5] * arguments["repeats"]


def gathering() -> Gathering:
    return Gathering(Hosts("a", "b", "c"), 1, (), ())


def contestants(*workers: Fake) -> list[Contestant]:
    names = ("cnnrs", "torch nchw", "openvino")
    return [Contestant(name, worker, "run") for name, worker in zip(names, workers, strict=True)]  # type: ignore[arg-type]


def test_a_peer_that_dies_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    found, case = gathering(), Case("lenet5", "infer", 1)
    times = time_survivors(Rounds(2, 0.1, 0.0), found, case, contestants(Fake(), Fake(dies=True), Fake()))
    assert list(times) == ["cnnrs", "openvino"]
    assert times["cnnrs"].calls == 2
    assert found.notes == ["lenet5 infer b1: torch nchw left out: gone"]
    assert "torch nchw left out" in capsys.readouterr().err


def test_cnnrs_that_dies_ends_the_run() -> None:
    with pytest.raises(WorkerError, match="gone"):
        time_survivors(
            Rounds(2, 0.1, 0.0),
            gathering(),
            Case("lenet5", "infer", 1),
            contestants(Fake(dies=True), Fake(), Fake()),
        )


def test_memory_share() -> None:
    assert share({"cnnrs": 30, "torch nchw": 60, "torch channels_last": 40}) == 0.75
    assert share({"cnnrs": 30}) is None


def test_coldstart_text() -> None:
    seconds = {"import": 0.1, "load": 0.2, "train and test": 3.0}
    runs = [
        {"seed": 0, "total": 4.0, "seconds": seconds, "accuracies": [0.97, 0.991]},
        {"seed": 1, "total": 9.0, "seconds": seconds, "accuracies": [0.98]},
    ]
    text = describe(runs, 0.99, 3)
    assert text.startswith("1 of 2 runs reached 99.00% on the test images: median 4.00 s [4.00-4.00]\n")
    assert "over 3 epochs" in " ".join(text.split())
    assert "0.9910" in text
    assert describe(runs[1:], 0.99, 3).startswith("0 of 1 runs reached 99.00% on the test images\n")


def report() -> Report:
    machine: dict[str, object] = {"cpu": "A CPU", "cores": 2, "caches": {}, "flags": ["fma"], "environment": {}}
    libraries: dict[str, dict[str, object]] = {
        "cnnrs": {"versions": {"cnnrs": "0"}, "settings": {"isa_used": "avx2"}},
        "ncnn": {"versions": {"ncnn": "1"}, "settings": {}},
    }
    return Report("networks", "case", "command", machine, libraries, {"rows": []}, "text", (0.25, 1.5), ["b is out"])


def test_result_files(tmp_path: Path) -> None:
    first, second = report().save(tmp_path), report().save(tmp_path)
    assert {path.name for path in first}.isdisjoint(path.name for path in second)
    content = json.loads(first[0].read_text("utf-8"))
    assert (content["load_average"], content["notes"]) == ([0.25, 1.5], ["b is out"])
    text = first[1].read_text("utf-8")
    for line in ("- Load average before and after: 0.25, 1.50", "- Note: b is out", "- Versions: cnnrs 0, ncnn 1"):
        assert f"{line}\n" in text


def test_bars_of_networks() -> None:
    found = plot.bars({"benchmark": "networks", "case": "c", "rows": [row.record() for row in rows()]})
    assert found.groups == ["resnet18\ninfer b1", "lenet5\ninfer b8"]
    assert found.series == {"torch nchw": [2.0, 0.75], "openvino": [1.5, None]}


def test_bars_of_stored_conv_results() -> None:
    path = next((Path(plot.__file__).parent / "results").glob("*-conv-resnet18-*.json"))
    content = json.loads(path.read_text("utf-8"))
    found = plot.bars(content)
    assert set(found.series) == set(content["totals"])
    assert all(len(values) == len(found.groups) for values in found.series.values())
    assert found.series["backward_data"][0] is None
    with pytest.raises(ValueError, match="got one of lenet"):
        plot.bars({"benchmark": "lenet"})


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib")
def test_plot_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"benchmark": "networks", "case": "c", "rows": [row.record() for row in rows()]}))
    assert plot.main([str(path)]) == 0
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    path.write_text("{}")
    assert plot.main([str(path)]) == 1


def test_networks_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "networks --networks lenet5 --mode train,infer --batch 2 --threads 1 --rounds 1 --turn 0.01 --pause 0"
    # an interpreter that is not there is a note, not a failure
    missing = ["--torch", "nchw", "--runtimes", "ncnn", "--torch-python", str(tmp_path / "none"), "--no-save"]
    assert main([*command.split(), *missing]) == 0
    captured = capsys.readouterr()
    assert "## Training step" in captured.out
    assert "## Inference" in captured.out
    for note in ("lenet5 train b2: torch nchw left out", "lenet5 infer b2: ncnn left out"):
        assert f"- Note: {note}" in captured.out
    assert str(tmp_path) not in captured.out


def test_scaling_and_memory_end_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    command = "scaling --networks lenet5 --batch 2 --threads 1,2 --rounds 1 --turn 0.01 --pause 0 --no-save"
    assert main(command.split()) == 0
    assert "speed-up" in capsys.readouterr().out
    assert main(["memory", "--networks", "lenet5", "--batch", "2", "--steps", "1", "--torch", "--no-save"]) == 0
    assert "lenet5 train b2" in capsys.readouterr().out
