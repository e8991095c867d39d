"""What a user says of a PSF, what the image says, and what is assumed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tifffile

import chunkflow as cf
from chunkflow.errors import ConfigError
from chunkflow.kernels import optics
from chunkflow.kernels.layers import Optics
from chunkflow.stages.psf import Psf
from chunkflow.testing import suites

VOXEL_UM = (0.2, 0.1, 0.1)
SHAPE = (60, 90, 90)
CONFOCAL: dict[str, Any] = {"microscope": "confocal", "objective": "63x/1.4 oil", "emission_nm": 525}


def facts_of(psf: Psf, metadata: dict[str, Any] | None = None) -> dict[str, tuple[Any, str]]:
    return dict(psf.on_grid(VOXEL_UM, SHAPE, metadata).facts)


def test_a_microscope_chooses_its_model_and_says_what_it_assumed() -> None:
    facts = facts_of(Psf(**CONFOCAL))
    assert facts["model"] == ("confocal", "given")
    assert facts["na"] == (1.4, "given")
    assert facts["immersion_index"] == (1.515, "given")
    assert facts["pinhole_au"] == (1.0, "assumed")
    assert facts["sample_index"] == (1.333, "assumed")
    assert facts["excitation_nm"] == (pytest.approx(493.5), "assumed")
    assert facts["depth_um"] == (0.0, "assumed")


def test_the_voxels_are_those_of_the_model() -> None:
    psf = Psf(**CONFOCAL, pinhole_au=0.5, sample_index=1.45, excitation_nm=488, depth_um=3, size=(21, 15, 15))
    layers = Optics(na=1.4, emission_um=0.525, immersion_index=1.515, sample_index=1.45, depth_um=3)
    expected = optics.confocal((21, 15, 15), VOXEL_UM, layers, excitation_um=0.488, pinhole_au=0.5)
    assert np.array_equal(psf.on_grid(VOXEL_UM, SHAPE).kernels[0], expected)


@pytest.mark.parametrize(
    ("text", "na", "magnification", "index"),
    [
        ("63x/1.4 oil", 1.4, 63, 1.515),
        ("60x/1.2 water", 1.2, 60, 1.333),
        ("20X 0.8", 0.8, 20, 1.0),
        ("0.95 air", 0.95, None, 1.0),
        ("25x/0.95 Water", 0.95, 25, 1.333),
    ],
)
def test_objectives_are_read_as_they_are_written(text: str, na: float, magnification: float, index: float) -> None:
    facts = facts_of(Psf(microscope="widefield", objective=text, emission_nm=520))
    assert facts["na"][0] == na
    assert facts["immersion_index"][0] == index


def test_what_the_image_says_is_used_unless_the_user_says_otherwise() -> None:
    stated = {"na": 1.2, "immersion": "water", "emission_nm": 610.0, "mode": "confocal", "excitation_nm": 561.0}
    facts = facts_of(Psf(na=1.1, pinhole_au=2.0), stated)
    assert facts["model"] == ("confocal", "image")
    assert facts["na"] == (1.1, "given")
    assert facts["emission_nm"] == (610.0, "image")
    assert facts["excitation_nm"] == (561.0, "image")
    assert facts["immersion_index"] == (1.333, "image")
    assert facts["pinhole_au"] == (2.0, "given")


def test_a_medium_that_the_users_objective_excludes_is_not_taken_from_the_image() -> None:
    facts = facts_of(Psf(microscope="widefield", na=1.4, emission_nm=520), {"immersion": "air", "immersion_index": 1.0})
    assert facts["immersion_index"] == (1.515, "assumed")


@pytest.mark.parametrize(
    ("psf", "said"),
    [
        ({"microscope": "confocal", "emission_nm": 525}, "needs na"),
        ({"microscope": "confocal", "objective": "63x/1.4 oil"}, "needs emission_nm"),
        ({"microscope": "spinning-disk", "na": 1.4, "emission_nm": 525}, "magnification"),
        ({"objective": "63x/1.4 oil", "emission_nm": 525}, "names no microscope"),
        ({}, "names no microscope"),
        ({"microscope": "widefield", "na": 1.4, "emission_nm": 0.525}, "It is in nm: 525"),
        ({"microscope": "confocal", "na": 1.4, "emission_nm": 525, "pinhole_um": 50.0}, "no magnification"),
        (
            {"microscope": "widefield", "na": 1.4, "emission_nm": 525, "slab_um": 2.0, "depth_um": 50.0},
            "has its focus in plane",
        ),
        ({"model": "variable-index", "na": 1.2, "emission_nm": 525}, "index_profile"),
        ({"microscope": "widefield", "na": 1.6, "emission_nm": 525, "immersion_index": 1.5}, "1.6"),
    ],
)
def test_what_is_missing_or_impossible_is_asked_for_when_the_psf_is_made(psf: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Psf(**psf).on_grid(VOXEL_UM, SHAPE, {})


@pytest.mark.parametrize(
    ("psf", "said"),
    [
        ({"model": "gaussian"}, "does not say which"),
        ({"fwhm_um": (0.6, 0.0, 0.2)}, "not positive"),
        ({"microscope": "confocl"}, "confocal"),
        ({**CONFOCAL, "objective": "63x oil"}, "cannot be read"),
        ({**CONFOCAL, "objective": "63x/1.4 honey"}, "honey"),
        ({**CONFOCAL, "slab_um": 0.0}, "slab_um"),
        ({**CONFOCAL, "energy": 1.5}, "energy"),
        ({**CONFOCAL, "size": (0, 9, 9)}, "size"),
    ],
)
def test_nonsense_is_refused_at_once(psf: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Psf(**psf)


@pytest.mark.parametrize(
    ("psf", "said"),
    [
        ({"fwhm_um": (0.6, 0.2, 0.2), "microscope": "confocal"}, "has no microscope"),
        ({"fwhm_um": (0.6, 0.2, 0.2), "path": "psf.tif"}, "has no fwhm_um"),
        ({"fwhm_um": (0.6, 0.2, 0.2), "slab_um": 2.0}, "has no slab_um"),
        ({"model": "gibson-lanni", "microscope": "confocal"}, "Keep one of them"),
        ({**CONFOCAL, "index_profile": ((0.0, 1.3),)}, "has no index_profile"),
        ({"model": "born-wolf", "na": 0.5, "emission_nm": 500, "slab_um": 2.0}, "has no slab_um"),
        ({"microscope": "widefield", "pinhole_au": 1.0}, "has no pinhole_au"),
    ],
)
def test_keys_that_would_not_be_looked_at_are_refused(psf: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Psf(**psf)


def test_a_pinhole_in_um_is_turned_into_airy_units() -> None:
    stated = {"pinhole_um": 50.0, "magnification": 63.0}
    airy_um = 1.22 * 0.525 / 1.4
    assert facts_of(Psf(**{**CONFOCAL, "objective": "1.4 oil"}), stated)["pinhole_au"] == (
        pytest.approx(50 / 63 / airy_um, abs=1e-3),
        "image",
    )
    assert facts_of(Psf(**CONFOCAL, pinhole_au=2.0), stated)["pinhole_au"] == (2.0, "given")


def test_confined_light_is_kept_to_the_energy_asked_for() -> None:
    assert facts_of(Psf(**CONFOCAL))["energy"][0] >= 0.98


@pytest.mark.parametrize("axis", [0, 2])
def test_voxels_too_coarse_for_the_psf_are_warned_of_with_numbers(axis: int) -> None:
    coarse = [0.1, 0.05, 0.05]
    coarse[axis] = 0.9
    (warning,) = Psf(**CONFOCAL, sample_index=1.515).on_grid((coarse[0], coarse[1], coarse[2]), SHAPE).warnings
    assert f"along {'zyx'[axis]}" in warning
    assert "0.9 um" in warning
    assert not Psf(**CONFOCAL, sample_index=1.515).on_grid((0.1, 0.05, 0.05), SHAPE).warnings


def test_one_plane_holds_no_blur_across_it() -> None:
    kernels = Psf(**CONFOCAL).on_grid(VOXEL_UM, (1, 90, 90)).kernels
    assert kernels.shape[1] == 1
    assert kernels.sum() == pytest.approx(1, abs=1e-5)


def test_a_computed_psf_is_no_larger_than_the_image() -> None:
    kernels = Psf(microscope="widefield", na=0.8, emission_nm=600).on_grid(VOXEL_UM, (12, 40, 31)).kernels
    assert all(k <= n and k % 2 == 1 for k, n in zip(kernels.shape[1:], (12, 40, 31), strict=True))


def test_a_psf_file_with_other_voxels_than_the_image_is_refused(tmp_path: Any) -> None:
    voxels = np.random.default_rng(0).random((5, 7, 7)).astype(np.float32)
    metadata = {"axes": "ZYX", "spacing": 0.3, "unit": "um"}
    tifffile.imwrite(tmp_path / "psf.tif", voxels, imagej=True, resolution=(10, 10), metadata=metadata)
    pipeline = cf.Pipeline.from_dict(
        {"version": 1, "stages": [{"deconvolve": {"psf": {"path": "psf.tif"}}}], "output": {"save": ["image"]}},
        folder=tmp_path,
    )
    image = np.ones((20, 20, 20), np.uint16)
    source = suites.write_volume(tmp_path / "in.ome.zarr", image, (0.2, 0.1, 0.1))
    with pytest.raises(ConfigError, match=r"voxels of \[0\.3"):
        pipeline.plan(source, tmp_path / "out")
    suites.write_volume(tmp_path / "same.ome.zarr", image, (0.3, 0.1, 0.1))
    assert pipeline.plan(tmp_path / "same.ome.zarr", tmp_path / "out").facts["psf"]["model"] == ("measured", "given")


@pytest.mark.parametrize("values", [np.zeros((5, 5, 5)), -np.ones((5, 5, 5)), np.full((5, 5, 5), np.nan)])
def test_a_measured_psf_without_light_is_refused(values: Any) -> None:
    from chunkflow.errors import InputError

    with pytest.raises(InputError):
        Psf(measured=values).on_grid(VOXEL_UM, SHAPE)


def test_channels_have_psfs_of_their_own_in_yaml(tmp_path: Any) -> None:
    content = {
        "version": 1,
        "stages": [{"deconvolve": {"psf": {"mito": {"fwhm_um": [0.6, 0.3, 0.3]}, "dna": CONFOCAL}}}],
    }
    pipeline = cf.Pipeline.from_dict(content, folder=tmp_path)
    (stage,) = pipeline.stages
    assert stage.psf["dna"] == Psf(**CONFOCAL)  # type: ignore[attr-defined]
    assert cf.Pipeline.from_dict(pipeline.to_dict()).stages == pipeline.stages
