import json

import pytest

from chunkflow.errors import InputError
from chunkflow.geometry.scale import Scale, doubt_of, um_per


@pytest.mark.parametrize("voxel_um", [(0.2, 0.08, 0.08), (0.004, 0.004, 0.004), (5.0, 2.6, 2.6), (1.0, 0.05, 0.05)])
def test_voxels_of_microscopes_are_taken_without_a_word(voxel_um: tuple[float, float, float]) -> None:
    assert doubt_of(voxel_um, (7, 30, 41)) == ""


@pytest.mark.parametrize("voxel_um", [(200.0, 80.0, 80.0), (2e-4, 8e-5, 8e-5), (200.0, 0.08, 0.08), (0.2, 80.0, 80.0)])
def test_a_voxel_size_a_thousand_times_off_is_doubted_with_what_to_do(voxel_um: tuple[float, float, float]) -> None:
    assert "--voxel-um Z Y X" in doubt_of(voxel_um, (7, 30, 41))


def test_the_thickness_of_a_plane_is_not_doubted() -> None:
    assert doubt_of((1.0, 0.02, 0.02), (1, 30, 41)) == ""
    assert "50 times as long as wide" in doubt_of((1.0, 0.02, 0.02), (2, 30, 41))
    assert "unusual for a microscope" in doubt_of((1.0, 200.0, 200.0), (1, 30, 41))
    assert "unusual" in doubt_of((1e-9, 1.0, 1.0), (1, 1, 1))


def test_a_coarse_voxel_is_centred_on_the_voxels_it_covers() -> None:
    fine = Scale((0.2, 0.056, 0.05), (10.0, 0.0, -3.0))
    coarse = fine.coarsened((1, 2, 4))
    assert coarse.voxel_um == (0.2, 0.112, 0.2)
    axes = zip(fine.translation_um, fine.voxel_um, (1, 2, 4), strict=True)
    covered = [[t + i * v for i in range(f)] for t, v, f in axes]
    assert coarse.translation_um == pytest.approx([sum(centres) / len(centres) for centres in covered])


def test_two_halvings_are_one_quartering() -> None:
    fine = Scale((1.0, 0.5, 0.25), (1.0, 2.0, 3.0))
    assert fine.coarsened((2, 2, 2)).coarsened((2, 2, 2)) == fine.coarsened((4, 4, 4))


def test_a_scale_is_written_as_json() -> None:
    scale = Scale((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert json.loads(json.dumps(scale.to_json())) == {
        "voxel_um": [0.1, 0.2, 0.3],
        "translation_um": [1.0, 2.0, 3.0],
    }


@pytest.mark.parametrize("voxel", [(0.0, 1.0, 1.0), (1.0, -0.5, 1.0)])
def test_a_voxel_size_that_is_not_positive_is_refused(voxel: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match=r"is not positive. Give three numbers above 0"):
        Scale(voxel)


@pytest.mark.parametrize("voxel", [(1.0, 1.0), (1.0, float("nan"), 1.0), (float("inf"), 1.0, 1.0)])
def test_a_voxel_size_is_three_finite_numbers(voxel: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=r"is not a number for each of z, y, x"):
        Scale(voxel)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("unit", "um"),
    [("\u00b5m", 1.0), ("\u03bcm", 1.0), ("Micron", 1.0), (" um ", 1.0), ("nm", 1e-3), ("cm", 1e4), ("inch", 25400.0)],
)
def test_a_unit_of_length_has_its_micrometers(unit: str, um: float) -> None:
    assert um_per(unit) == um


@pytest.mark.parametrize("unit", ["pixel", "", "parsec", "second"])
def test_a_word_that_is_no_length_has_none(unit: str) -> None:
    assert um_per(unit) is None
