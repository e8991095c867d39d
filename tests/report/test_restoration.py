"""What the report says of correction and deconvolution, against the merges and the voxels."""

import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.report import charts
from chunkflow.report.facts import RunFacts
from chunkflow.report.report import write_report
from chunkflow.report.restoration import restoration_numbers, restored_with
from chunkflow.testing import suites

SHAPE = (24, 40, 40)
CONFOCAL = cf.Psf(microscope="confocal", objective="63x/1.2 water", emission_nm=525, size=(9, 9, 9))


def spotted() -> Any:
    """int16 spots on a noisy ground around 0: negative voxels, and 12 at the type's largest value."""
    image = np.random.default_rng(3).normal(20, 15, SHAPE)
    image[4:20, 8:32:6, 8:32:6] += 900
    image[10:13, 18:20, 18:20] = 32767
    return image.round().astype(np.int16)


def run(folder: Path, image: Any, *stages: Any, **options: Any) -> cf.Result:
    source = suites.write_volume(folder / "in.ome.zarr", image, (0.3, 0.1, 0.1))
    pipeline = cf.Pipeline(stages, input=cf.InputOptions(**options), output=cf.OutputOptions(save=("image",)))
    return pipeline.plan(source, folder / "out", block=(24, 24, 40)).run(on="serial", device="cpu")


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> cf.Result:
    stage = cf.Deconvolve(psf=CONFOCAL, dtype="uint16", scale=3.0, tile=(24, 24, 24), halo=(8, 8, 8), tolerance=0.02)
    return run(tmp_path_factory.mktemp("tiled"), spotted(), stage)


def page(result: cf.Result) -> str:
    return write_report(result).read_text(encoding="utf-8")


def words(html: str) -> str:
    return " ".join(unescape(re.sub("<[^>]*>", " ", html)).split())


def section(html: str) -> str:
    """The section "Restoration"."""
    return html.partition("<h2>Restoration</h2>")[2].partition("</section>")[0]


def rows(html: str) -> dict[str, list[str]]:
    """Cells of all tables by the first of their row."""
    cells = [re.findall("<td[^>]*>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", html)]
    return {words(first): [words(cell) for cell in rest] for first, *rest in filter(None, cells)}


def test_the_section_says_how_it_was_restored_and_how_far_tiles_can_be_relied_on(tiled: cf.Result) -> None:
    assert "A restored image in" in page(tiled)
    found = rows(section(page(tiled)))
    image, check = spotted(), tiled.pass_values("deconvolve-check")
    clipped = int(tiled.pass_values("deconvolve-range")["clipped"][0])
    negative = int((image < 0).sum())
    difference = float(check["difference"][0])
    assert 0 < difference <= 0.02 and clipped > 0
    assert found["algorithm"] == ["richardson-lucy"] and found["iterations"] == ["10 (usual)"]
    assert found["edges"] == ["extended"] and found["background"] == ["0 grey values"]
    assert found["tiles"] == ["4 of 24 × 24 × 24 voxels"] and found["halo"] == ["8 × 8 × 8 voxels (given)"]
    measured = float(found["difference measured"][0].partition(",")[0])
    assert measured == pytest.approx(difference, rel=0.05)
    share = 100 * clipped / image.size
    assert found["restored image"] == [
        f"uint16, 3 grey values per unit; clipped: {clipped} voxel{'s' * (clipped > 1)} ({share:.3g} %)"
    ]
    assert found["negative voxels"] == [f"{negative:,} voxels ({100 * negative / image.size:.3g} %), counted as 0"]
    assert found["saturated voxels"] == [f"12 voxels ({1200 / image.size:.3g} %) with the largest value, 32,767"]


def test_every_number_of_the_psf_has_its_source(tiled: cf.Result) -> None:
    html = section(page(tiled))
    found, facts = rows(html), RunFacts(tiled).plan["facts"]["psf"]
    assert found["model"] == ["confocal", "given"] and found["numerical aperture"] == ["1.2", "given"]
    assert found["emission"] == ["525 nm", "given"]
    assert found["pinhole"] == ["1 AU", "assumed"] and found["excitation"] == ["493.5 nm", "assumed"]
    assert found["size"] == ["9 × 9 × 9 voxels", "computed"]
    table = html.partition("<h3>Point-spread function</h3>")[2].partition("</table>")[0]
    assert [cells[-1] for cells in rows(table).values()] == [source for _, source in facts.values()]
    assumed = words(html).partition("Assumed: ")[2].partition(". Give them")[0].split(", ")
    assert {"refractive index of the sample", "excitation", "pinhole"} <= set(assumed)
    assert len(assumed) == [source for _, source in facts.values()].count("assumed")


def test_warnings_of_the_run_are_in_the_report(tiled: cf.Result) -> None:
    boxes = re.findall("<div class='warning'>(.*?)</div>", page(tiled))
    assert [text for text in boxes if "count as 0" in text] and [text for text in boxes if "bright rims" in text]
    assert [text for text in boxes if "clipped" in text]


def test_people_and_machines_get_the_same_numbers(tiled: cf.Result) -> None:
    facts = RunFacts(tiled)
    psf = facts.plan["facts"]["psf"]["fwhm_um"][0]
    sentence, numbers = restored_with(facts), restoration_numbers(facts)
    assert sentence.startswith("restored with richardson-lucy, 10 iterations, PSF confocal 0.")
    assert [float(width) for width in re.search(r"confocal (.*) um;", sentence)[1].split(" x ")] == pytest.approx(
        psf, rel=0.01
    )
    assert sentence.endswith("(tolerance 2e-2)")
    assert (numbers["algorithm"], numbers["iterations"], numbers["saturated"]) == ("richardson-lucy", 10, 12)
    assert numbers["negative"] == int((spotted() < 0).sum()) and numbers["difference"] < 0.02
    assert sentence[1:].replace(" x ", " × ").replace(" um", " µm") in words(section(page(tiled)))


def test_one_tile_has_no_difference_and_linear_algorithms_no_iterations(tmp_path: Path) -> None:
    stage = cf.Deconvolve(psf=cf.Psf(fwhm_um=(0.8, 0.3, 0.3)), algorithm="wiener", tile=SHAPE, halo=(4, 4, 4))
    result = run(tmp_path, spotted(), stage)
    found = rows(section(page(result)))
    assert found["tiles"] == ["one, the whole volume"] and "halo" not in found and "iterations" not in found
    assert found["difference measured"] == ["none: one tile holds the volume"]
    assert found["regularization"] == ["0.1 (usual)"] and found["restored image"] == ["float32"]
    assert "counted as 0" not in found["negative voxels"][0]
    shown = r"restored with wiener, PSF gaussian 0\.8\S* x 0\.3\S* x 0\.3\S* um; one tile holds the volume"
    assert re.fullmatch(shown, restored_with(RunFacts(result)))
    assert restoration_numbers(RunFacts(result))["difference"] is None


def test_gains_of_the_planes_are_drawn_and_the_background_is_told(tmp_path: Path) -> None:
    image = (np.random.default_rng(4).poisson(200, SHAPE) * np.linspace(1, 0.25, 24)[:, None, None]).astype(np.uint16)
    stage = cf.Correct(background_percentile=1.0, gain="slice", gain_percentile=60.0)
    result = run(tmp_path, image, stage)
    html = section(page(result))
    levels, found = result.pass_values("correct-levels"), rows(html)
    gain = levels["gain"]
    assert found["gain"][0].startswith(f"{gain.min():.3g} to {gain.max():.3g} by plane")
    assert float(found["background"][0].split()[0]) == pytest.approx(float(levels["background"][0]), rel=1e-3)
    (points,) = re.findall("<polyline class='line' points='([^']*)'", html)
    drawn = np.array([[float(v) for v in point.split(",")] for point in points.split()])
    assert len(drawn) == 24 and drawn[0, 0] == charts.LEFT and drawn[-1, 0] == charts.RIGHT
    assert np.corrcoef(drawn[:, 1], gain)[0, 1] < -0.9999  # y runs down
    assert "Deconvolution" not in html and restored_with(RunFacts(result)) == ""


def test_iterations_that_a_run_chose_itself_are_shown_with_what_it_chose_by(tmp_path: Path) -> None:
    psf = cf.Psf(microscope="widefield", na=0.8, emission_nm=525, depth_um=3.0, size=(9, 9, 9))
    result = run(tmp_path, spotted().clip(0, 900), cf.Deconvolve(psf=psf, stop="auto", iterations=4, background=5.0))
    check, html = result.pass_values("deconvolve-check"), section(page(result))
    found = rows(html)
    chosen = int(check["iterations"][0])
    assert found["iterations"] == [f"{chosen} (chosen, see below)"] and f"{chosen} (chosen)" in found
    residuals = [float(found[f"{k} (chosen)" if k == chosen else str(k)][0]) for k in range(1, 5)]
    assert residuals == pytest.approx(check["curve"][:, 0], rel=1e-3)
    assert ("the last was best" in page(result)) == bool(check["at_end"][0])
    assert found["depth below the coverslip"] == ["3 µm", "given"]


def test_swollen_specimens_are_told_in_both_micrometres(tmp_path: Path) -> None:
    stage = cf.Deconvolve(psf=CONFOCAL, iterations=1)
    result = run(tmp_path, spotted().clip(0), stage, expansion=4.1)
    text = words(page(result))
    assert "Optics (the PSF and its depths) are in µm as imaged; everything else" in text
    assert "µm as imaged / 4.1." in text and "Point-spread function (µm as imaged)" in text
    assert restored_with(RunFacts(result)).partition(";")[0].endswith(" um as imaged")


def test_the_table_that_iterations_were_chosen_by_is_shown_with_the_chosen_one(
    tiled: cf.Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "were tried on samples" not in page(tiled)
    check = tiled.pass_values("deconvolve-check")
    gcv = (np.arange(1, 61) - 37.0) ** 2 + 2
    curve = np.stack([1 / np.arange(1, 61), np.linspace(5, 4, 60), gcv, np.full(60, np.nan)], axis=1)
    values = {**check, "iterations": np.array([37]), "curve": curve, "at_end": np.array([False])}
    monkeypatch.setattr(RunFacts, "values", lambda self, name: values if name == "deconvolve-check" else None)
    html = section(page(tiled))
    found = rows(html)
    assert found["37 (chosen)"] == ["0.02703", "4.390", "2"] and found["60"] == ["0.01667", "4", "531"]
    assert "resolution" not in html and html.count("<polyline") == 3 and html.count(">chosen: 37<") == 3
    assert found["iterations"] == ["37 (chosen, see below)"]
    assert len([row for row in found if row.split()[0].isdecimal()]) == 22  # 1, every third to 60, and 37
