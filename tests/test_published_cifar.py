"""Networks that others trained give here what they give there: every picture of a test set, logit by logit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import cnnrs
from cnnrs import datasets, models

# Model, checkpoint, logits that torch computed, pictures of 10,000 that it gets right.
PUBLISHED = [
    ("cifar_resnet20", "resnet20-12fca82f.th", "resnet20_logits.npz", 8103),
    pytest.param("cifar_resnet32", "resnet32-d509ac18.th", "resnet32_logits.npz", 8256, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "checkpoint", "logits", "right"), PUBLISHED)
def test_logits_of_all_test_pictures(
    name: str, checkpoint: str, logits: str, right: int, cifar10_pictures: tuple[datasets.Dataset, datasets.Dataset]
) -> None:
    """Within 1e-3 of torch's at most, 1e-4 on average, and as many right, give or take one."""
    folder = os.environ.get("CNNRS_TEST_WEIGHTS")
    if folder is None:
        pytest.skip("CNNRS_TEST_WEIGHTS is not set")
    test = cifar10_pictures[1]
    model = models.get_model(name)
    cnnrs.load_weights(model, Path(folder, checkpoint))
    found = np.concatenate([model(test.images[start : start + 500]) for start in range(0, len(test), 500)])
    with np.load(Path(folder, logits)) as stored:
        expected, labels = stored["logits"], stored["labels"]
    assert (labels == test.labels).all()
    error = np.abs(found - expected)
    assert error.max() <= 1e-3
    assert error.mean() <= 1e-4
    assert abs(int((found.argmax(axis=1) == labels).sum()) - right) <= 1
