"""Grey values are scaled in one place, for networks and classifiers, applied and trained."""

import numpy as np

from chunkflow.stages.normalize import compressed, scaled


def test_scaling_puts_two_grey_values_at_0_and_1() -> None:
    image = np.array([[[100, 300, 200, 500]]], np.uint16)
    assert scaled(image, 100.0, 200.0).ravel().tolist() == [0, 1, 0.5, 2]
    assert np.isfinite(scaled(np.array([2**31], np.uint32), 2.0**31, 1.0)).all()


def test_compression_keeps_0_and_1_and_shrinks_what_is_beyond() -> None:
    values = np.array([-1, 0, 1, 10], np.float32)
    found = compressed(values, 3.0)
    np.testing.assert_allclose(found, np.arcsinh(3.0 * values.astype(np.float64)) / np.arcsinh(3.0), rtol=1e-6)
    assert found.dtype == np.float32 and found[1] == 0 and found[3] < 3
    assert compressed(values, None) is values
