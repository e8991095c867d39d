"""The voxels of a network against its design, and the Euler number against scikit-image."""

from __future__ import annotations

from math import pi

import numpy as np
import skimage.measure

from chunkflow.synth.phantoms import bernoulli
from chunkflow.synth.tubes import Network
from chunkflow.synth.voxels import euler_number, tube_voxels

CONFOCAL_UM = (0.2, 0.08, 0.08)


def test_a_strand_that_closes_on_itself_in_the_voxels_is_rejected() -> None:
    angle = np.linspace(0.05, 2 * pi - 0.05, 60)
    curve = np.stack([np.full(60, 1.5), 2.4 + 1.2 * np.cos(angle), 2.4 + 1.2 * np.sin(angle)], axis=1)
    links = np.stack([np.arange(59), np.arange(1, 60)], axis=1)
    strand, ring = (Network(curve, np.full(60, 0.18), links, [0, 59], loops, [curve]) for loops in (0, 1))
    assert tube_voxels(strand, (16, 60, 60), np.array(CONFOCAL_UM)) is None
    assert tube_voxels(ring, (16, 60, 60), np.array(CONFOCAL_UM)) is not None


def test_the_euler_number_is_that_of_skimage() -> None:
    for seed in range(5):
        mask = np.pad(bernoulli((17, 19, 23), 0.1 + 0.15 * seed, seed), 1)
        assert euler_number(mask) == skimage.measure.euler_number(mask, connectivity=3)
