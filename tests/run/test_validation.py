"""Validation counts what was labelled, and nothing else."""

import numpy as np
import pytest

from chunkflow.models.targets import Target
from chunkflow.run.validation import Example, scores

IGNORE = 99


@pytest.mark.parametrize("kind", ["foreground+boundary", "distance", "affinities"])
def test_what_is_found_where_nobody_looked_costs_nothing(kind):
    labels = np.zeros((6, 12, 24), np.int32)
    labels[1:5, 2:9, 2:9] = 1
    full = labels.copy()
    full[1:5, 2:9, 14:21] = 2  # found, in a part that is not labelled
    labels[:, :, 12:] = IGNORE
    target = Target(kind=kind, clip_um=2.0, ignore=IGNORE)
    known, um = np.ones(labels.shape, bool), (1.0, 1.0, 1.0)
    wanted, weight = target.make(labels, known, um)
    found, _ = target.make(full, known, um)
    image = np.zeros((1, *labels.shape), np.float32)
    example = Example(name="box", image=image, labels=labels, target=wanted, weight=weight)
    assert scores([(example, found.astype(np.float32))], target)["average_precision"] == 1
