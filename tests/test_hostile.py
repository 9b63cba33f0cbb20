"""Hostile files are refused with an error that says what and where, in bounded memory, and nothing changes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cnnrs
from cnnrs import nn
from hostile import CORPUS, GOOD_FILES
from resident import PRELUDE, measured

MOST_RISE = 64 << 20
MOST_SECONDS = 5.0

PROGRAM = (
    PRELUDE
    + """
import os, resource, time
folder, number = sys.argv[1], int(sys.argv[2])
os.system = eval  # a call would be noticed by its failure
model = nn.Linear(3, 2)
results = []
gc.freeze()  # what is there already need not be looked at before each file
for index in range(number):
    path = f"{folder}/{index}"
    before = model.state_dict(copy=True)
    began, start = time.thread_time(), restart()
    try:
        cnnrs.load_weights(model, path)
        kind, text = None, "loaded"
    except BaseException as error:
        kind, text = type(error).__name__, str(error)
    rise, took = peak() - start, time.thread_time() - began
    same = all((array == before[name]).all() for name, array in model.state_dict().items())
    results.append([kind, text, rise, took, same])
print(json.dumps(results))
"""
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of every file, all read by one process."""
    folder = tmp_path_factory.mktemp("hostile")
    for index, case in enumerate(CORPUS.values()):
        (folder / str(index)).write_bytes(case.make())
    command = [sys.executable, "-c", PROGRAM, str(folder), str(len(CORPUS))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    return {title: [f"{folder}/{index}", *found[index]] for index, title in enumerate(CORPUS)}


@pytest.mark.parametrize("kind", GOOD_FILES)
def test_the_files_are_good_before_they_are_spoiled(tmp_path: Path, kind: str) -> None:
    path, model = tmp_path / "good", nn.Linear(3, 2)
    path.write_bytes(GOOD_FILES[kind]())
    assert cnnrs.load_weights(model, path) == ([], [])
    assert model.state_dict()["weight"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 200


@measured
@pytest.mark.parametrize("title", CORPUS)
def test_a_hostile_file_is_refused(title: str, outcomes: dict[str, Any]) -> None:
    path, kind, text, rise, took, same = outcomes[title]
    assert kind == "WeightsError", (kind, text)
    assert text.startswith(f"{path}: ")
    text = text.removeprefix(f"{path}: ")
    assert re.search(CORPUS[title].text, text), text
    assert text.isprintable()
    assert len(text) < 2000
    assert same
    assert rise <= MOST_RISE
    assert took <= MOST_SECONDS
