"""What each algorithm makes of an image whose truth is known: correlation, PSNR and time, iteration by iteration.

Two scenes. `hollow bars` of the EPFL, at a quarter of its size: blurred by a microscope far from Gaussian, the PSF
given. `beads`, made here after DeconvolutionLab2's demo: spheres of several sizes and brightnesses on a lattice, a
Gaussian PSF of sigma 2, Poisson noise and the camera's.

Correlation is Pearson's with the truth, over all voxels. PSNR is against the truth's peak, after the one gain that fits
best (the bars come in arbitrary units). Seconds are on one thread, from the start to the end of that iteration.
`*` marks the best of a column. Algorithms have their defaults as in a pipeline; the linear ones have one result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import tifffile
from common import Options, Report, Row, Table, options
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw
from scipy import ndimage

from chunkflow.geometry.box import Triple
from chunkflow.kernels import deconvolve, extent, inverse, psf
from chunkflow.kernels.algorithms import Algorithm
from chunkflow.stages.restoration import ALGORITHMS, Choice, Method

Image = NDArray[np.float32]

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
PICTURE = ROOT / "docs" / "hollow_bars.png"
ONCE = 0  # the column of the linear algorithms
COUNTS = (ONCE, 1, 2, 3, 5, 10, 20, 25, 50, 75, 100, 200)
QUICK_COUNTS = COUNTS[:8]
MOMENTUM = ", momentum"

BEADS_SHAPE: Triple = (64, 80, 96)
BEADS_SIGMA = 2.0
BEADS_BACKGROUND, BEADS_READ_NOISE = 10.0, 2.0
LATTICE = 16  # voxels from bead to bead

# Goals on hollow bars: what 50 plain Richardson-Lucy iterations reach, in so few; and a correlation to pass
GOAL_CORRELATION, GOAL_BACK_PROJECTOR, GOAL_MOMENTUM = 0.72, 5, 25
PLAIN, PLAIN_COUNT = "richardson-lucy", 50


@dataclass(frozen=True, slots=True)
class Scene:
    """An image, its truth, and what is known of the microscope."""

    name: str
    truth: Image
    image: Image
    psf: Image
    background: float = 0.0


@dataclass(frozen=True, slots=True)
class Score:
    """How good an estimate is, and after how many seconds it was there."""

    correlation: float
    psnr: float
    seconds: float


Scores = dict[str, dict[int, Score]]


def main() -> None:
    """Measure, report, draw."""
    given = options(str(__doc__))
    report = Report(
        "restoration",
        "Algorithms on known truth, iteration by iteration",
        given,
        ["scipy"],
        protocol="one compute thread, one run of each",
    )
    counts = QUICK_COUNTS if given.quick else COUNTS
    bars = hollow_bars(report)
    for scene in [beads()] if bars is None else [bars, beads()]:
        scores = {name: scored(scene, method, counts) for name, method in methods(scene).items()}
        report.tables += tables(scene, scores, counts)
        report.notes += remarks(scene, scores)
        if scene is bars:
            report.rows += goals(scores, given)
    if bars is not None and not given.quick:
        draw(bars, PICTURE)
        report.notes.append(f"central sections: {PICTURE.relative_to(ROOT)}")
    report.finish()


def hollow_bars(report: Report) -> Scene | None:
    """The scene, or None with a remark."""
    files = [DATA / f"hollow_bars_{part}.tif" for part in ("actual", "data", "kernel")]
    if not all(file.exists() for file in files):
        report.notes.append(f"hollow bars skipped: no hollow_bars_*.tif in {DATA}")
        return None
    truth, image, kernel = (tifffile.imread(file).astype(np.float32) for file in files)
    return Scene("hollow bars", truth, image, psf.normalise(kernel))


def beads() -> Scene:
    """Spheres of radius 1.5 to 5 voxels and 50 to 255 photons on a lattice, in a dark volume."""
    random = np.random.default_rng(0)
    light = np.zeros(BEADS_SHAPE, np.float32)
    grid = np.indices(BEADS_SHAPE, np.float32)
    for corner in np.ndindex(*(n // LATTICE for n in BEADS_SHAPE)):
        centre = (np.array(corner) + 0.5) * LATTICE + random.uniform(-0.5, 0.5, 3)
        radius, photons = random.uniform(1.5, 5), random.uniform(50, 255)
        distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)))
        light += np.float32(photons) * np.clip(radius - distance + 0.5, 0, 1)  # a voxel at the border shines in part
    blurred = ndimage.gaussian_filter(light, BEADS_SIGMA, mode="constant")
    counts = random.poisson(blurred + BEADS_BACKGROUND) + random.normal(0, BEADS_READ_NOISE, BEADS_SHAPE)
    width = BEADS_SIGMA * psf.FWHM_PER_SIGMA
    kernel = psf.gaussian((width,) * 3, (1.0, 1.0, 1.0))
    return Scene("beads", light, counts.clip(0).astype(np.float32), kernel, BEADS_BACKGROUND)


def methods(scene: Scene) -> dict[str, Method]:
    """Every algorithm with its defaults, with momentum too where it can have it."""
    z, y, x = extent.fwhm(scene.psf, (1.0, 1.0, 1.0))
    found = {}
    for name, known in ALGORITHMS.items():
        for momentum in (False, True) if known.has_momentum else (False,):
            choice = Choice(
                regularization=known.regularization or 0.0,
                step=1.0,
                momentum=momentum,
                bounds=None,
                fwhm_vox=(z, y, x),
            )
            found[name + MOMENTUM * momentum] = known.make(choice)
    return found


def scored(scene: Scene, method: Method, counts: tuple[int, ...]) -> dict[int, Score]:
    """Scores by iteration; a linear method has one."""
    if not isinstance(method, Algorithm):
        began = perf_counter()
        estimate = inverse.filtered(scene.image, scene.psf, method, background=scene.background)
        return {ONCE: score(scene.truth, estimate, perf_counter() - began)}
    found = {}
    with np.errstate(over="ignore", invalid="ignore"):  # some diverge, and that is to be seen
        for iteration, seconds, estimate in timed_estimates(scene, method, counts[-1]):
            if iteration in counts:
                found[iteration] = score(scene.truth, estimate, seconds)
    return found


def timed_estimates(scene: Scene, method: Algorithm, iterations: int) -> Iterator[tuple[int, float, Image]]:
    """Iteration from 1, seconds of computing so far, estimate."""
    inside = tuple(slice(n) for n in scene.image.shape)
    start = max(float(scene.image.mean()) - scene.background, 1e-3)
    seconds, began = 0.0, perf_counter()
    estimates = deconvolve.iterates(
        scene.image, scene.psf, method, iterations=iterations, start=start, background=scene.background
    )
    for iteration, estimate in enumerate(estimates, 1):
        seconds += perf_counter() - began
        yield iteration, seconds, estimate[inside]
        began = perf_counter()


def score(truth: Image, estimate: Image, seconds: float) -> Score:
    """How well an estimate fits; one that went out of bounds (nan) counts as 0."""
    x, t = estimate.astype(np.float64).ravel(), truth.astype(np.float64).ravel()
    if not np.isfinite(x).all() or not x.std() > 0:
        return Score(0.0, 0.0, seconds)
    gain = (x @ t) / (x @ x)
    error = ((gain * x - t) ** 2).mean()
    return Score(float(np.corrcoef(x, t)[0, 1]), float(10 * np.log10(t.max() ** 2 / error)), seconds)


def tables(scene: Scene, scores: Scores, counts: tuple[int, ...]) -> list[Table]:
    """Correlation, PSNR and seconds."""
    headings = ["once" if n == ONCE else str(n) for n in counts]

    def table(what: str, key: str, digits: int, best: str | None) -> Table:
        cells = {
            name: [getattr(by_count[n], key) if n in by_count else None for n in counts]
            for name, by_count in scores.items()
        }
        return Table(title=f"{scene.name}: {what}", columns=headings, rows=cells, digits=digits, best=best)

    return [
        table("correlation with the truth, by iterations", "correlation", 3, "most"),
        table("PSNR [dB], by iterations", "psnr", 2, "most"),
        table("seconds, by iterations", "seconds", 2, None),
    ]


def peak(by_count: dict[int, Score]) -> tuple[int, float]:
    """The iteration, of those in the table, of the best correlation."""
    best = max(by_count, key=lambda n: by_count[n].correlation)
    return best, by_count[best].correlation


def remarks(scene: Scene, scores: Scores) -> list[str]:
    """The image's own score, the best, and who gets worse again."""
    raw = score(scene.truth, scene.image, 0.0)
    name = max(scores, key=lambda n: peak(scores[n])[1])
    where, most = peak(scores[name])
    first = f"{scene.name}: the raw image has {raw.correlation:.3f} and {raw.psnr:.2f} dB"
    found = [f"{first}; best {name}, {most:.3f} at {where}"]
    for name, by_count in scores.items():
        where, most = peak(by_count)
        last = max(by_count)
        if by_count[last].correlation < most - 0.02:
            under = [n for n in sorted(by_count) if n > where and by_count[n].correlation < raw.correlation]
            worse = f", under the raw image from {under[0]} on" if under else ""
            found.append(
                f"{scene.name}: {name} peaks at {where} ({most:.3f}) and falls to "
                f"{by_count[last].correlation:.3f} at {last}{worse}"
            )
    return found


def goals(scores: Scores, given: Options) -> list[Row]:
    """What must be shown on hollow bars."""
    best = max(peak(by_count)[1] for by_count in scores.values())
    rows = []
    if not given.quick:
        limit = 1 - GOAL_CORRELATION
        peer = f"limit: correlation {GOAL_CORRELATION}"
        rows.append(Row(name="hollow bars: 1 - best correlation", ours=1 - best, peer=peer, peer_value=limit, goal=1.0))
    wanted = 0.58 if given.quick else min(scores[PLAIN][PLAIN_COUNT].correlation, 0.58)
    for name, most in (
        ("masked-wiener", GOAL_BACK_PROJECTOR),
        ("wiener-butterworth", GOAL_BACK_PROJECTOR),
        (PLAIN + MOMENTUM, GOAL_MOMENTUM),
    ):
        reached = [n for n in sorted(scores[name]) if scores[name][n].correlation >= wanted]
        rows.append(
            Row(
                name=f"hollow bars: iterations of {name} to {wanted:.2f}",
                ours=reached[0] if reached else float("inf"),
                peer=f"plain Richardson-Lucy's {PLAIN_COUNT}",
                peer_value=PLAIN_COUNT,
                goal=PLAIN_COUNT / most if name != "wiener-butterworth" else None,
            )
        )
    return rows


def draw(scene: Scene, path: Path) -> None:
    """Central sections, one column each: y-x above, z-x below, each from 0 to its brightest 0.2 %."""
    shown = {"truth": scene.truth, "image": scene.image}
    for title, name, count in (
        ("Richardson-Lucy, 50", PLAIN, 50),
        ("with momentum, 75", PLAIN + MOMENTUM, 75),
        ("masked Wiener, 3", "masked-wiener", 3),
        ("Wiener filter", "wiener", 0),
    ):
        shown[title] = restored(scene, methods(scene)[name], count)
    side, gap, head, zoom = scene.truth.shape[2] * 3, 6, 16, 3
    z, y = scene.truth.shape[0] // 2, scene.truth.shape[1] // 2
    height = head + (scene.truth.shape[1] + scene.truth.shape[0]) * zoom + gap
    canvas = Picture.new("L", (len(shown) * (side + gap) - gap, height), 255)
    for k, (title, values) in enumerate(shown.items()):
        left = k * (side + gap)
        ImageDraw.Draw(canvas).text((left + 2, 2), title, fill=0)
        canvas.paste(_section(values, values[z], zoom), (left, head))
        canvas.paste(_section(values, values[:, y], zoom), (left, head + scene.truth.shape[1] * zoom + gap))
    canvas.save(path, optimize=True)


def restored(scene: Scene, method: Method, count: int) -> Image:
    """The estimate after so many iterations."""
    if not isinstance(method, Algorithm):
        return np.asarray(inverse.filtered(scene.image, scene.psf, method, background=scene.background))
    return [estimate for _, _, estimate in timed_estimates(scene, method, count)][-1]


def _section(volume: Image, section: Image, zoom: int) -> Any:
    white = np.percentile(volume, 99.8)
    grey = np.asarray(255 * (section / white).clip(0, 1), np.uint8)
    return Picture.fromarray(grey.repeat(zoom, 0).repeat(zoom, 1))


if __name__ == "__main__":
    main()
