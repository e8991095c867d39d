"""PSFs made on their own: what is written is what deconvolution reads, and every number says where it came from."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chunkflow.errors import UsageError
from chunkflow.geometry.scale import Scale
from chunkflow.kernels.beads import BeadReport
from chunkflow.plan.pipeline import Pipeline
from chunkflow.report.psf_picture import png_of_psf
from chunkflow.run.make_psf import MadePsf, check_free, make_psf, quality_rows, write_psf
from chunkflow.stages.deconvolve import Deconvolve
from chunkflow.stages.microscope import described
from chunkflow.stages.psf import Psf, PsfOnGrid
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.omezarr import Channel
from chunkflow.storage.omezarr_write import write_image_group
from chunkflow.storage.tiff import read_tiff
from chunkflow.storage.volume import create_array
from chunkflow.testing.suites import write_volume

VOXEL = (0.3, 0.1, 0.1)
LENS = {"objective": "63x/1.4 oil", "emission_nm": 525.0}


def read_back(made: MadePsf, folder: Path) -> np.ndarray:
    """The PSF that a pipeline takes from the file."""
    write_psf(folder / "p.tif", made)
    content = {"version": 1, "stages": [{"deconvolve": {"psf": {"path": "p.tif"}}}]}
    (stage,) = Pipeline.from_dict(content, folder=folder).stages
    assert isinstance(stage, Deconvolve)
    return stage.psf_for("").on_grid(made.voxel_um, (200, 200, 200)).kernels[0]


@pytest.mark.parametrize(
    ("values", "overrides"),
    [
        ({"microscope": "confocal", **LENS}, ()),
        ({"microscope": "widefield", **LENS}, ("depth_um=10", "floor=1e-2")),
        ({"microscope": "widefield", **LENS, "size": (9, 21, 17)}, ()),
        ({"microscope": "light-sheet", "emission_nm": 525.0}, ("objective=20x/0.5 water", "tilt_degrees=10")),
        ({"fwhm_um": (0.7, 0.25, 0.3)}, ()),
        ({"microscope": "confocal", **LENS, "size": (1, 9, 1)}, ()),
    ],
    ids=[
        "confocal",
        "widefield below water",
        "cut where light is",
        "tilted sheet",
        "gaussian",
        "three planes and three columns with the frame",
    ],
)
def test_the_file_is_read_by_a_pipeline_as_it_was_made(
    tmp_path: Path, values: dict[str, Any], overrides: tuple[str, ...]
) -> None:
    made = make_psf(values, overrides, voxel_um=VOXEL)
    found = read_back(made, tmp_path)
    assert found.shape == made.voxels.shape and not any("off the centre" in warning for warning in made.warnings)
    assert np.abs(found - made.voxels).max() <= 1e-6 * made.voxels.max()
    tiff = read_tiff(tmp_path / "p.tif")
    assert tiff.dtype == np.float32 and tiff.voxel_um == pytest.approx(VOXEL, rel=1e-6)


def test_an_even_shape_keeps_its_light_where_it_was(tmp_path: Path) -> None:
    made = make_psf({"microscope": "confocal", **LENS, "size": (8, 12, 14)}, voxel_um=VOXEL)
    found = read_back(made, tmp_path)
    assert made.voxels.shape == (8, 12, 14) and found.shape == (9, 13, 15)
    assert found[:-1, :-1, :-1] == pytest.approx(made.voxels, abs=1e-9)


def test_facts_say_what_was_given_what_the_image_said_and_what_was_assumed(tmp_path: Path) -> None:
    image(tmp_path / "in.ome.zarr")
    made = make_psf({"sample_index": 1.4}, ("depth_um=2",), like=str(tmp_path / "in.ome.zarr"), channel="green")
    assert made.voxel_um == VOXEL
    sources = {name: source for name, (_, source) in made.facts.items()}
    assert {name for name, source in sources.items() if source == "image"} == {"model", "na", "emission_nm"}
    assert {name for name, source in sources.items() if source == "given"} == {"sample_index", "depth_um"}
    assert {name for name, source in sources.items() if source == "assumed"} == {
        "immersion_index", "excitation_nm", "pinhole_au", "coverslip_um",
    }  # fmt: skip
    line = described(made.facts)
    assert line.startswith("confocal, sample index 1.4, depth 2 um, ")
    assert "from the image: confocal, NA 1.2, emission 510 nm; FWHM " in line
    assert line.endswith("assumed: immersion index 1.333, excitation 479.4 nm, pinhole 1 AU, coverslip 170 um")


def test_what_is_given_wins_over_the_image(tmp_path: Path) -> None:
    image(tmp_path / "in.ome.zarr")
    values = {"microscope": "widefield", "emission_nm": 600.0}
    made = make_psf(values, voxel_um=(0.2, 0.1, 0.1), like=str(tmp_path / "in.ome.zarr"), channel="1")
    assert made.voxel_um == (0.2, 0.1, 0.1)
    assert made.facts["emission_nm"] == (600.0, "given") and made.facts["model"] == ("gibson-lanni", "given")


def test_the_psf_of_a_pipeline_is_the_one_its_plan_holds(tmp_path: Path) -> None:
    image(tmp_path / "in.ome.zarr")
    psf = "{red: {fwhm_um: [0.8, 0.3, 0.3]}, green: {microscope: confocal}}"
    (tmp_path / "p.yaml").write_text(
        f"version: 1\ninput: {{path: in.ome.zarr, channel: red}}\nstages:\n  - deconvolve: {{psf: {psf}}}\n"
    )
    pipeline = str(tmp_path / "p.yaml")
    assert make_psf({}, pipeline=pipeline).facts["fwhm_um"][1] == "given"
    made = make_psf({}, ("deconvolve.psf.green.na=1.1",), pipeline=pipeline, channel="green")
    overrides = ["input.channel=green", "deconvolve.psf.green.na=1.1"]
    plan = Pipeline.from_yaml(pipeline, overrides).plan(output=tmp_path / "out")
    held = plan.pass_named("deconvolve").draft.constants["psf"]
    assert np.array_equal(made.voxels[None], held)
    assert made.facts == plan.facts["psf"] and made.facts["na"] == (1.1, "given")


def test_beads_are_averaged_and_their_quality_told(tmp_path: Path) -> None:
    widths = (0.75, 0.3, 0.3)
    write_volume(tmp_path / "beads.ome.zarr", beads(widths), VOXEL)
    made = make_psf({"fwhm_um": (0.9, 0.25, 0.25)}, beads=str(tmp_path / "beads.ome.zarr"))
    assert made.beads is not None and made.facts["fwhm_um"][1] == "measured"
    assert made.fwhm_um == pytest.approx(widths, rel=0.05)
    quality = made.to_dict()["beads"]
    assert (quality["found"], quality["used"]) == (6, 3)
    assert quality["rejected"] == {"saturated": 0, "border": 1, "overlapping": 2, "brightness": 0}
    assert quality["fwhm_mean_um"] == pytest.approx(widths, rel=0.05) and max(quality["fwhm_sd_um"]) < 0.05
    rows = dict(quality_rows(made.beads))
    assert rows["rejected"] == "1 border, 2 overlapping" and rows["FWHM z"].startswith("0.7")
    assert np.abs(read_back(made, tmp_path) - made.voxels).max() <= 1e-6 * made.voxels.max()


def test_widths_that_cannot_be_measured_are_null_in_json_and_words_for_people() -> None:
    endless = np.array([[np.inf, 0.2, 0.2], [0.6, 0.2, 0.2]])
    report = BeadReport(found=2, used=2, rejected={"border": 0}, fwhm_um=endless, snr=np.array([np.inf, 9.0]))
    rows = dict(quality_rows(report))
    assert rows["FWHM z"] == "does not fall to half" and rows["signal to noise"] == "median without noise, least 9"
    narrow = make_psf({"microscope": "confocal", **LENS, "size": (3, 9, 9)}, voxel_um=VOXEL)
    assert json.loads(json.dumps(narrow.to_dict(), allow_nan=False))["fwhm_um"][0] is None
    assert described(narrow.facts).count("FWHM") == 1


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"fwhm_um": (1.0, 1.0, 1.0)}, {}, "voxel size is not known"),
    ({"fwhm_um": (1.0, 1.0, 1.0)}, {"voxel_um": (0.0, 1.0, 1.0)}, "not positive"),
    ({}, {"voxel_um": VOXEL}, "names no microscope"),
    ({"microscope": "confocal"}, {"voxel_um": VOXEL}, "needs na"),
    ({"microscope": "confocal", "objective": "63x/1.4 oil"}, {"voxel_um": VOXEL}, "needs emission_nm"),
    ({"microscope": "confocal", **LENS}, {"voxel_um": VOXEL, "overrides": ["slab_um=2"]}, "a file holds one"),
    ({"microscope": "confocal", **LENS}, {"voxel_um": VOXEL, "overrides": ["depth"]}, "not key=value"),
    ({"microscope": "confocal", **LENS}, {"voxel_um": VOXEL, "overrides": ["dept_um=2"]}, "depth_um"),
    ({"emission_nm": 500.0}, {"pipeline": "p.yaml"}, "--emission-nm cannot be used with --pipeline"),
    ({"fwhm_um": (1.0, 1.0, 1.0)}, {"beads": "b", "like": "c"}, "--like cannot be used with --beads"),
    ({}, {"beads": "b"}, "how wide a bead looks"),
    ({"size": (0, 5, 5), "fwhm_um": (1.0, 1.0, 1.0)}, {"beads": "b"}, "1 or more"),
    ({}, {"source": "in"}, "--pipeline"),
]


@pytest.mark.parametrize(("values", "options", "words"), REFUSED, ids=[case[2] for case in REFUSED])
def test_what_cannot_be_made_is_refused(values: dict[str, Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_psf(values, **options)


def test_a_pipeline_that_restores_nothing_has_no_psf(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("version: 1\nstages: [label]\n")
    with pytest.raises(UsageError, match="no deconvolve stage"):
        make_psf({}, pipeline=str(tmp_path / "p.yaml"), source="in.ome.zarr")
    (tmp_path / "p.yaml").write_text("version: 1\nstages: [deconvolve: {psf: {fwhm_um: [1, 1, 1]}}]\n")
    with pytest.raises(UsageError, match="no input is named"):
        make_psf({}, pipeline=str(tmp_path / "p.yaml"))


def test_a_brightest_voxel_off_the_centre_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = np.zeros((7, 7, 7), np.float32)
    voxels[4:6, 3, 2:4] = 0.1
    voxels[5, 3, 3] = 0.7
    monkeypatch.setattr(Psf, "on_grid", replacing_voxels(Psf.on_grid, voxels))
    (warning,) = make_psf({"fwhm_um": (3.0, 3.0, 3.0)}, voxel_um=(1.0, 1.0, 1.0)).warnings
    assert "(2, 0, 0) voxels" in warning


def replacing_voxels(on_grid: Callable[..., PsfOnGrid], voxels: np.ndarray) -> Callable[..., PsfOnGrid]:
    return lambda *arguments: replace(on_grid(*arguments), kernels=voxels[None])


def test_files_that_are_there_are_kept_unless_told_otherwise(tmp_path: Path) -> None:
    tiff, picture = check_free(str(tmp_path / "a.tif"), overwrite=False)
    assert (tiff.name, picture.name) == ("a.tif", "a.png")
    picture.write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"a\.png exists.*--overwrite"):
        check_free(str(tiff), overwrite=False)
    check_free(str(tiff), overwrite=True)
    tiff.mkdir()
    with pytest.raises(UsageError, match=r"a\.tif exists"):
        check_free(str(tiff), overwrite=True)
    with pytest.raises(UsageError, match=r"does not end in \.tif"):
        check_free(str(picture), overwrite=True)


def test_the_sections_of_a_picture_share_one_scale_in_um_and_centre_on_the_peak() -> None:
    voxels = make_psf({"fwhm_um": (1.2, 0.6, 0.6)}, voxel_um=(0.4, 0.1, 0.1)).voxels
    pixels = np.asarray(Image.open(io.BytesIO(png_of_psf(voxels, (0.4, 0.1, 0.1), (1.2, 0.6, 0.6), "a PSF"))))
    page = pixels.astype(int)[96:840, 40:800]
    bright = np.argwhere((page[..., 0] > 240) & (page[..., 1] > 240) & (page[..., 2] < 200))  # the top of the ladder
    sections = page.sum(axis=2) < 700
    height = np.flatnonzero(~sections[:, 60])[0]  # of xy, down to the white gap
    size_um = np.array(voxels.shape) * (0.4, 0.1, 0.1)
    width = np.flatnonzero(~sections[60, :])[0]
    across = np.flatnonzero(sections[60, :741]).max() - width
    assert height / width == pytest.approx(size_um[1] / size_um[2], rel=0.02)
    assert across / width == pytest.approx(size_um[0] / size_um[2], rel=0.05)
    inside = bright[(bright[:, 0] < height) & (bright[:, 1] < width)]
    assert inside.mean(axis=0) == pytest.approx([height / 2, width / 2], abs=2)


@pytest.mark.parametrize("shape", [(1, 9, 9), (2, 3, 4), (5, 1, 1)])
def test_a_picture_of_any_shape_can_be_drawn(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(1)
    widths = (np.inf, 0.2, np.inf)
    picture = Image.open(io.BytesIO(png_of_psf(rng.random(shape, np.float32), VOXEL, widths, "word " * 200)))
    assert picture.format == "PNG" and picture.size == (1500, 940)


def image(path: Path) -> None:
    """Two channels of zeros; the second says how it was taken."""
    layout = replace(layout_for_core((16, 64, 64), (16, 64, 64), "uint16"), leading=(2,))
    create_array(path / "0", layout, Scale(VOXEL), axes="czyx")
    shown = [Channel(name, (0.0, 1.0)) for name in ("red", "green")]
    optics = ({}, {"na": 1.2, "emission_nm": 510.0, "mode": "confocal"})
    write_image_group(path, name="in", levels={"0": Scale(VOXEL)}, axes="czyx", channels=shown, optics=optics)


def beads(fwhm_um: tuple[float, float, float]) -> np.ndarray:
    """(Z, Y, X) uint16: three beads alone, two together and one at the border, on an offset of 100."""
    shape = (28, 80, 80)
    sigma = np.array(fwhm_um) / np.array(VOXEL) / 2.3548200450309493
    axes = [np.arange(n) for n in shape]
    light = np.full(shape, 100.0)
    for at in ((14, 20, 20), (13.3, 20.4, 60.2), (14.7, 58.6, 20.3), (14, 55, 55), (14, 55, 59), (2, 8, 40)):
        z, y, x = (np.exp(-(((axis - p) / s) ** 2) / 2) for axis, p, s in zip(axes, at, sigma, strict=True))
        light += 2000 * z[:, None, None] * y[:, None] * x
    return np.random.default_rng(5).poisson(light).astype(np.uint16)
