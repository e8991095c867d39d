"""Forests of arrays against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest

from chunkflow.kernels import trees

forests = pytest.importorskip("sklearn.ensemble", reason="scikit-learn is not installed")


@pytest.mark.parametrize(("classes", "count", "depth"), [(2, 7, None), (3, 20, None), (4, 1, 2)])
def test_probabilities_are_those_of_scikit_learn(classes: int, count: int, depth: int | None) -> None:
    from chunkflow.run.train_pixels import forest_of

    rng = np.random.default_rng(classes)
    samples = rng.standard_normal((700, 6)).astype(np.float32)
    labels = (
        1
        + (samples[:, 0] + samples[:, 1] ** 2 + 0.3 * rng.standard_normal(700) > 0.5)
        + rng.integers(0, classes - 1, 700)
    )
    model = forests.RandomForestClassifier(count, max_depth=depth, class_weight="balanced", random_state=0)
    model.fit(samples, labels)
    forest = forest_of(model)
    # Values that trees split by are among them: on the threshold a voxel goes left.
    rows = np.concatenate([rng.standard_normal((9000, 6)), np.repeat(forest.threshold[:200, None], 6, axis=1)])
    rows = rows[: len(rows) // 2 * 2].astype(np.float32)
    truth = model.predict_proba(rows)
    for column in range(classes):
        found = trees.probability(
            rows.reshape(2, -1, 6),
            roots=forest.roots,
            feature=forest.feature,
            threshold=forest.threshold,
            left=forest.left,
            right=forest.right,
            value=np.ascontiguousarray(forest.value[:, column]),
        )
        assert found.shape == (2, len(rows) // 2)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.ravel(), truth[:, column], atol=1e-6)
        alone = trees.probability(
            rows[5:6],
            roots=forest.roots,
            feature=forest.feature,
            threshold=forest.threshold,
            left=forest.left,
            right=forest.right,
            value=np.ascontiguousarray(forest.value[:, column]),
        )
        assert alone[0] == found.ravel()[5]
