"""Stacks to train on: what is drawn is in its ranges, and the truth beside the image is that of what was drawn."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from chunkflow.errors import UsageError
from chunkflow.synth import crowds
from chunkflow.synth.crowds import REACH_VOX, VOXEL_UM
from chunkflow.synth.mitochondria import Ranges, mitochondria_stack

SHAPE = (40, 61, 57)
PLAIN = Ranges(
    radius_um=(0.2, 0.2),
    photons=(1e5, 1e5),
    intensity_factor=(1.0, 1.0),
    clump_probability=0.0,
    cell_probability=0.0,
    cutout_probability=0.0,
    background=(0.1, 0.1),
)


def test_a_seed_draws_the_same_stack_and_another_seed_another_one() -> None:
    first, again, other = (mitochondria_stack(seed, shape=SHAPE) for seed in (3, 3, 4))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.distance.tobytes() == again.distance.tobytes()
    assert first.length_um == again.length_um
    assert (first.image != other.image).any()


def test_the_distance_is_that_to_the_surface_within_the_size_of_a_voxel() -> None:
    """Outside, it is the Euclidean distance to the voxels inside, but for where in its voxel the surface passes."""
    stack = mitochondria_stack(5, PLAIN, SHAPE)
    apart = ndimage.distance_transform_edt(~stack.outline())
    inner = np.zeros(SHAPE, bool)
    inner[5:-5, 5:-5, 5:-5] = True  # beyond the border there are tubes too
    known = inner & (stack.distance > 0) & (stack.distance < REACH_VOX - 1)
    assert known.sum() > 1000
    difference = apart[known] - stack.distance[known]
    assert difference.min() > -0.01
    assert difference.max() < 3**0.5


def test_a_grown_outline_holds_the_voxels_up_to_that_distance() -> None:
    stack = mitochondria_stack(5, PLAIN, SHAPE)
    assert np.array_equal(stack.outline(1.0), stack.distance <= 1)
    assert (stack.outline(1.0) & ~stack.outline()).any()


def test_tubes_of_one_radius_have_the_volume_that_their_length_tells() -> None:
    """pi r^2 per length. Ends and cut-off tubes add a little, junctions take a little."""
    for seed in (1, 2, 3):
        stack = mitochondria_stack(seed, PLAIN)
        volume = np.count_nonzero(stack.outline()) * VOXEL_UM**3
        assert volume == pytest.approx(np.pi * 0.2**2 * stack.length_um, rel=0.15)


def test_no_tube_is_thicker_than_the_range_and_clumps_are() -> None:
    plain = mitochondria_stack(7, PLAIN)
    clumped = mitochondria_stack(7, replace(PLAIN, clump_probability=1.0))
    assert -plain.distance.min() <= 0.2 / VOXEL_UM
    assert ndimage.distance_transform_edt(clumped.outline()).max() > 1.5 * 0.2 / VOXEL_UM


def test_the_brightest_network_is_the_factor_times_as_bright_as_the_dimmest() -> None:
    for count in (2, 3, 17):
        bright = crowds.brightness(count, 5.0)
        assert bright.max() / bright.min() == pytest.approx(5)
        assert bright.max() == 1


def test_light_stands_above_the_background_by_the_photons_asked_for() -> None:
    """At the 95th percentile of the tubes' voxels, noise of 1e5 photons being nothing."""
    stack = mitochondria_stack(2, replace(PLAIN, read_noise=(0.0, 0.0), step_z_um=(VOXEL_UM, VOXEL_UM)))
    planes = 1e4 * 0.03 * 4  # the background of planes differs by 3 %
    assert np.percentile(stack.image[stack.outline()], 95) == pytest.approx(1.1e5, abs=planes + 2000)
    assert np.median(stack.image[stack.distance >= REACH_VOX]) > 0.9e4


def test_the_widths_it_tells_are_those_it_was_blurred_by() -> None:
    """Of a narrower and a wider Gaussian, along z or across, the image differs more."""
    plain = replace(PLAIN, tail=(0.0, 0.0), halo=(0.0, 0.0), step_z_um=(VOXEL_UM, VOXEL_UM), cytoplasm=(0.0, 0.0))
    stack = mitochondria_stack(8, plain)
    sigma = np.array(stack.fwhm_um) / VOXEL_UM / (8 * np.log(2)) ** 0.5
    tubes, seen = stack.outline().astype(np.float64), stack.image[:, 8:-8, 8:-8].ravel()

    def likeness(along: float, across: float) -> float:
        blurred = ndimage.gaussian_filter(tubes, sigma * (along, across, across))[:, 8:-8, 8:-8]
        return float(np.corrcoef(blurred.ravel(), seen)[0, 1])

    at_best = likeness(1.0, 1.0)
    assert at_best > 0.99
    assert at_best > max(likeness(0.85, 1.0), likeness(1.15, 1.0), likeness(1.0, 0.7), likeness(1.0, 1.3))


def test_what_is_cut_away_holds_neither_tubes_nor_their_light() -> None:
    """The same tubes drawn whole and cut: what is lost from the label is lost from the image and the length."""
    cutting = replace(PLAIN, cutout_probability=1.0)
    for seed in range(3):
        whole, cut = (mitochondria_stack(seed, ranges) for ranges in (PLAIN, cutting))
        lost = whole.outline() & ~cut.outline()
        assert lost.sum() > 200
        assert not (cut.outline() & ~whole.outline()).any()
        assert np.median(cut.image[lost]) < 0.2e5 < np.median(whole.image[lost])
        assert cut.length_um < whole.length_um


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"radius_um": (0.2, 0.1)}, "radius_um"),
        ({"photons": (0.0, 5.0)}, "photons"),
        ({"cell_probability": 1.5}, "cell_probability"),
        ({"background": (-0.1, 0.1)}, "background"),
        ({"stray": (0.5, 1.1)}, "stray"),
    ],
)
def test_a_range_without_a_sense_is_refused_by_its_name(given: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Ranges(**given)


def test_a_negative_seed_and_a_tiny_shape_are_refused() -> None:
    with pytest.raises(UsageError, match="negative"):
        mitochondria_stack(-1)
    with pytest.raises(UsageError, match="16"):
        mitochondria_stack(0, shape=(8, 64, 64))
