"""Richardson-Lucy on one array: chunkflow's kernel beside scikit-image, RedLionfish and the bare FFTs it needs.

Seconds per iteration, from runs of a few iterations with everything a run needs before the first one. Contenders use
the same data, PSF and number of threads (the peers' FFTs are scipy's, which can be told).

What the tasks are: scikit-image takes the image as dark outside and pads it for that, and so do we with edges="zero"
(we also divide by how much of a voxel's light was seen, it does not). It knows no circular edges; the row that sets
ours beside it says what someone wins who can do without padding. RedLionfish is circular only. The default is
"extended", which also estimates what lies beyond the sides of the image.

The floor: two real FFTs and two back per iteration, of the padded size, on a whole array by scipy.fft. It can be
undercut, all pointwise work included: we skip planes and rows of zeros, and stay in a cache between two passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import scipy.fft
from common import Report, Row, options, peak_mib, peer, take_turns
from numpy.typing import NDArray
from skimage.restoration import richardson_lucy

from chunkflow import backend
from chunkflow.geometry.box import Triple
from chunkflow.kernels import blur, psf
from chunkflow.kernels.algorithms import RICHARDSON_LUCY, Algorithm, TotalVariation, WienerButterworth
from chunkflow.kernels.blur import Edges
from chunkflow.kernels.deconvolve import deconvolve, iterates
from chunkflow.synth import optics, phantoms

Image = NDArray[np.float32]

PSF_SIDE = 31
VOXEL_UM = (0.1, 0.1, 0.1)
FWHM_UM = (0.6, 0.25, 0.25)
BACKGROUND = 10.0
PHANTOM_SHAPE: Triple = (64, 256, 256)
THREADS = (1, 2, 4)
GOAL_ZERO, GOAL_CIRCULAR, GOAL_REDLIONFISH = 2.0, 4.0, 1.3
GOAL_FFT, GOAL_CUFFT = 1.35, 1.3  # times the FFTs alone, at most
MOST_IMAGES = 8.0
# 20 iterations of 64 x 256 x 256 on 4 cores of a machine like this one, the whole process, as measured once; GPL, in C
DECONWOLF_SECONDS = 2.07 / 20
EXPECTED = (
    "expected after a first profile of 64x256x256 on one thread (complex FFTs 48 %, real ones 22 %, pointwise work "
    "10 %, copies 8 %; 0.8 of the FFTs alone with padded edges, 1.2 with circular ones): elsewhere 0.85 to 1.05 with "
    "padded edges, where planes and rows of zeros are never transformed, and 1.05 to 1.2 with circular ones, where "
    "there are none; about 3 times scikit-image with zero edges, which transforms the PSF anew twice per iteration, "
    "6 FFTs instead of 4"
)
PROFILE = (
    "64^3 circular, one thread, 40 iterations: complex FFTs 41 %, real ones 23 %, ratio and products 11 %, columns "
    "times OTF and copies 9 %, the rest calls of a few us each. There all of it fits in a cache, so that RedLionfish's "
    "whole arrays cost it little: it takes 1.2 to 1.4 times the FFTs alone up to 64x256x256 (2 and more from 256^3 "
    "on), and to be 1.3 times as quick as that is to do all pointwise work in a tenth of the FFTs' time, or none"
)
MEMORY = (
    "memory: four float32 arrays of the padded shape; a PSF of 31^3 makes 3.4 images of one of 64^3, so 13.5 before "
    "any slab: the limit is one for images that are large beside their PSF"
)

FLOORS: tuple[Edges, ...] = ("extended", "circular")
RUNS: dict[str, tuple[Edges, Algorithm]] = {
    "extended": ("extended", RICHARDSON_LUCY),
    "zero": ("zero", RICHARDSON_LUCY),
    "circular": ("circular", RICHARDSON_LUCY),
    "momentum": ("extended", Algorithm(momentum=True)),
    "total variation": ("extended", Algorithm(penalty=TotalVariation(2e-3))),
    "Wiener-Butterworth": (
        "extended",
        Algorithm(back=WienerButterworth(cutoff=(0.1 / 0.6, 0.1 / 0.25, 0.1 / 0.25))),
    ),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One size: iterations of ours, and of the peers, which prepare nothing and so may run fewer.

    algorithms : thread counts on which the other algorithms are timed too
    """

    shape: Triple
    iterations: int
    peer_iterations: int
    algorithms: tuple[int, ...]

    @property
    def size(self) -> str:
        return "x".join(map(str, self.shape))


CASES = [
    Case((64, 64, 64), 20, 20, (1, 4)),
    Case((64, 256, 256), 10, 5, (1, 4)),
    Case((256, 256, 256), 5, 2, (4,)),
    Case((512, 512, 512), 3, 1, (4,)),
]
QUICK_CASES = [
    Case((64, 64, 64), 10, 5, (2,)),
    Case((64, 256, 256), 4, 2, (2,)),
    Case((256, 256, 256), 3, 1, ()),
]


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    report = Report(
        "deconvolution",
        "Richardson-Lucy beside scikit-image, RedLionfish and its own FFTs, PSF 31^3",
        given,
        ["scipy", "scikit-image", "RedLionfish"],
        protocol=f"threads as in each row; median of {given.rounds} rounds in turn",
    )
    lionfish = peer("RedLionfishDeconv.RLDeconv3DScipy", report)
    image, truth = scene()
    cases = QUICK_CASES if given.quick else CASES
    for case in cases:
        here = cut(image, case.shape)
        report.rows.append(memory(case, here))
        rounds = 1 if given.quick and case.shape[0] > 64 else given.rounds
        for threads in THREADS:
            if threads <= backend.available_cores():
                report.rows += rows(case, threads, Seconds(case, threads, here, lionfish, rounds))
    report.notes += remarks(image, truth, lionfish, cases)
    gpu_rows(report, [case.shape for case in cases[2:]])
    report.finish()


def scene() -> tuple[Image, NDArray[np.bool_]]:
    """Mitochondria under a confocal microscope, and where they are."""
    truth = phantoms.mitochondria(PHANTOM_SHAPE, VOXEL_UM, seed=1).labels > 0
    image = optics.acquire(truth, voxel_um=VOXEL_UM, seed=1, fwhm_um=FWHM_UM, background=BACKGROUND)
    return image.astype(np.float32), truth


def cut(image: Image, shape: Triple) -> Image:
    """The scene repeated until it fills a shape."""
    repeats = [-(-n // m) for n, m in zip(shape, image.shape, strict=True)]
    return np.ascontiguousarray(np.tile(image, repeats)[tuple(slice(n) for n in shape)])


def kernel() -> Image:
    """The Gaussian PSF with a hundredth of it lying along y: no product of profiles, which we would sum directly."""
    gaussian = product()
    return np.asarray(0.99 * gaussian + 0.01 * gaussian.transpose(1, 0, 2), np.float32)


def product() -> Image:
    """A Gaussian PSF of the scene, cut or padded by zeros to a cube of odd side, its centre kept; sums to 1."""
    given = psf.gaussian(FWHM_UM, VOXEL_UM)
    cube = np.zeros((PSF_SIDE,) * 3, np.float32)
    kept = [min(n, PSF_SIDE) // 2 for n in given.shape]
    inner = tuple(slice(PSF_SIDE // 2 - k, PSF_SIDE // 2 + k + 1) for k in kept)
    outer = tuple(slice(n // 2 - k, n // 2 + k + 1) for n, k in zip(given.shape, kept, strict=True))
    cube[inner] = given[outer]
    return np.asarray(cube / cube.sum(), np.float32)


def paces(image: Any, edges: Edges, threads: int, iterations: int, algorithm: Algorithm) -> Iterator[float]:
    """Seconds of each iteration but the first, which has the preparations, and the last, which loads no next one."""
    stamps = [0.0] * iterations
    for k, _ in enumerate(ours(image, edges, threads, iterations, algorithm)):
        synchronise(image)
        stamps[k] = perf_counter()
    return (after - before for before, after in pairwise(stamps[:-1]))


def ours(
    image: Any,
    edges: Edges,
    threads: int,
    iterations: int,
    algorithm: Algorithm,
    *,
    background: float = BACKGROUND,
    of_product: bool = False,
) -> Iterator[Any]:
    """The estimates of a run of ours; `of_product`: the PSF is a product of profiles."""
    xp = backend.array_module(image)
    start = float(xp.maximum(image - background, 0).mean())
    return iterates(
        image,
        xp.asarray(product() if of_product else kernel()),
        algorithm,
        iterations=iterations,
        start=start,
        background=background,
        edges=edges,
        threads=threads,
    )


def restored_by_us(image: Image, edges: Edges, iterations: int, background: float) -> Image:
    """The image restored, on all cores."""
    estimate = None
    for estimate in ours(image, edges, THREADS[-1], iterations, RICHARDSON_LUCY, background=background):  # noqa: B007
        pass
    assert estimate is not None
    return np.asarray(estimate[tuple(slice(n) for n in image.shape)])


def synchronise(array: Any) -> None:
    """Wait for the GPU, if the array is on one."""
    xp = backend.array_module(array)
    if xp is not np:
        xp.cuda.Device().synchronize()


def of_scikit_image(image: Image, iterations: int) -> Image:
    """The peer, without the background, which it does not know."""
    above = np.maximum(image - BACKGROUND, 0)
    return np.asarray(richardson_lucy(above, kernel(), num_iter=iterations, clip=False, filter_epsilon=1e-6))


def of_redlionfish(lionfish: Any, image: Image, iterations: int) -> Image:
    """The peer, on a CPU."""
    above = np.maximum(image - BACKGROUND, 0)
    return np.asarray(lionfish.doRLDeconvolution_DL2_4(above, kernel(), niter=iterations))


class Seconds:
    """Seconds per iteration of every contender on one size and number of threads; medians of rounds in turn.

    run : a whole run, per iteration; loop : from one iteration to the next, without what comes before the first
    """

    def __init__(self, case: Case, threads: int, image: Image, lionfish: Any, rounds: int) -> None:
        steps: dict[str, list[float]] = {}
        contenders: dict[str, Callable[[], Any]] = {}
        for name, (edges, algorithm) in RUNS.items():
            if algorithm is RICHARDSON_LUCY or threads in case.algorithms:
                steps[name] = []
                run = partial(paces, image, edges, threads, case.iterations, algorithm)
                contenders[name] = partial(_collect, steps[name], run)
        contenders["sums"] = partial(_exhausted, image, threads, case.iterations)
        for edges in FLOORS:
            contenders[f"FFTs {edges}"] = floor(np.ones(padded(case.shape, edges), np.float32))
        contenders["scikit-image"] = partial(of_scikit_image, image, case.peer_iterations)
        if lionfish is not None:
            contenders["RedLionfish"] = partial(of_redlionfish, lionfish, image, case.peer_iterations)
        with scipy.fft.set_workers(threads):
            contenders["FFTs extended"]()
            times = take_turns(contenders, rounds)
        iterations = {name: 1 if name.startswith("FFTs") else case.peer_iterations for name in times}
        iterations.update(dict.fromkeys((*steps, "sums"), case.iterations))
        self.run = {name: timing.median / iterations[name] for name, timing in times.items()}
        self.loop = {name: median(values) for name, values in steps.items()}


def _exhausted(image: Any, threads: int, iterations: int) -> None:
    for _ in ours(image, "extended", threads, iterations, RICHARDSON_LUCY, of_product=True):
        pass


def _collect(values: list[float], run: Callable[[], Iterator[float]]) -> None:
    values.extend(run())


def padded(shape: Triple, edges: Edges) -> Triple:
    """The FFT's shape of ours."""
    return blur.fft_shape(shape, (PSF_SIDE,) * 3, edges)


def floor(values: Any) -> Callable[[], None]:
    """The FFTs of one iteration, on whole arrays, numpy or cupy."""
    fourier = backend.scipy_module(values, "fft")

    def transform() -> None:
        for _ in range(2):
            fourier.irfftn(fourier.rfftn(values), s=values.shape, overwrite_x=True)
        synchronise(values)

    return transform


def rows(case: Case, threads: int, seconds: Seconds) -> list[Row]:
    """The rows of one size and number of threads."""
    what = f"{case.size}, {threads} thread{'s' if threads > 1 else ''}"
    run, loop = seconds.run, seconds.loop
    skimage, lionfish = run["scikit-image"], run.get("RedLionfish")
    found = [
        row(f"{what}, zero edges", run["zero"], "scikit-image, zero edges", skimage, GOAL_ZERO),
        row(f"{what}, circular", run["circular"], "scikit-image, which pads all the same", skimage, GOAL_CIRCULAR),
        row(f"{what}, circular", run["circular"], "RedLionfish, circular", lionfish, GOAL_REDLIONFISH),
    ]
    if threads == THREADS[-1] and case.shape == PHANTOM_SHAPE:
        peer_name = "deconwolf, circular, another day"
        found.append(row(f"{what}, circular", run["circular"], peer_name, DECONWOLF_SECONDS, GOAL_REDLIONFISH))
    found.append(row(f"{what}, extended", run["extended"], "scikit-image, zero edges", skimage, None))
    found.append(
        row(f"{what}, extended, a Gaussian by direct sums", run["sums"], "ours by FFTs", run["extended"], None)
    )
    for name in loop:
        edges = RUNS[name][0]
        if edges in FLOORS:
            goal = 1 / GOAL_FFT if name in FLOORS else None
            found.append(row(f"{what}, {name}, loop alone", loop[name], "its FFTs alone", run[f"FFTs {edges}"], goal))
    return found


def row(name: str, seconds: float, peer_name: str, peer_value: float | None, goal: float | None) -> Row:
    """A row of seconds per iteration."""
    goal = None if goal is None else round(goal, 3)
    return Row(name=f"{name} [s/it]", ours=seconds, peer=peer_name, peer_value=peer_value, goal=goal)


def memory(case: Case, image: Image) -> Row:
    """Peak memory beside the inputs, the result included, in float32 images of that size."""
    start = float(image.mean())
    peak = peak_mib(lambda: deconvolve(image, kernel(), RICHARDSON_LUCY, iterations=2, start=start))
    images = peak * 2**20 / image.nbytes
    return Row(
        name=f"{case.size}, extended, peak memory [images]", ours=images, peer="limit", peer_value=MOST_IMAGES, goal=1.0
    )


def remarks(image: Image, truth: NDArray[np.bool_], lionfish: Any, cases: Sequence[Case]) -> list[str]:
    """What the contenders' results are worth, and how the tasks differ."""
    iterations = 20
    with scipy.fft.set_workers(THREADS[-1]):
        restored = {"image": image, "scikit-image": of_scikit_image(image, iterations)}
        if lionfish is not None:
            restored["RedLionfish"] = of_redlionfish(lionfish, image, iterations)
        theirs = of_scikit_image(image, 5)
    for name in ("extended", "zero", "circular"):
        restored[f"ours, {name}"] = restored_by_us(image, RUNS[name][0], iterations, BACKGROUND)
    quality = "; ".join(f"{n} {np.corrcoef(a.ravel(), truth.ravel())[0, 1]:.3f}" for n, a in restored.items())
    same = restored_by_us(np.maximum(image - BACKGROUND, 0), "zero", 5, 0.0)
    inside = tuple(slice(PSF_SIDE, n - PSF_SIDE) for n in image.shape)
    apart = np.linalg.norm((same - theirs)[inside]) / np.linalg.norm(theirs[inside])
    fewer = ", ".join(f"{c.peer_iterations} of our {c.iterations} at {c.size}" for c in cases)
    return [
        EXPECTED,
        PROFILE,
        MEMORY,
        f"correlation with the truth after {iterations} iterations of {'x'.join(map(str, image.shape))}: {quality}",
        f"the same model as scikit-image (no background, zero edges, 5 iterations), {PSF_SIDE} voxels off the sides: "
        f"{apart:.1e} apart (relative L2)",
        "seconds per iteration hold the preparations, except in 'loop alone'; the peers prepare nothing and ran fewer "
        f"iterations, extrapolated: {fewer}",
        "'its FFTs alone' without a goal: total variation and the back projector do more than FFTs",
        "deconwolf does not come from PyPI: its figure is the whole process on such a machine on another day",
    ]


def gpu_rows(report: Report, shapes: Sequence[Triple]) -> None:
    """Iterations on a GPU beside the cuFFT calls they need, and cuCIM; a remark where there is none."""
    device = backend.find_device()
    if device.kind != "gpu":
        report.notes.append(f"GPU rows skipped: {device.reason}")
        return
    report.notes.append(f"on {device}")
    cucim = peer("cucim.skimage.restoration", report)
    scene_image = scene()[0]
    for shape in shapes:
        image = backend.to_device(cut(scene_image, shape), "gpu")
        transform = floor(backend.array_module(image).ones(padded(shape, "extended"), np.float32))
        transform()
        floor_seconds = take_turns({"cuFFT": transform}, 10)["cuFFT"].median
        loop = median(list(paces(image, "extended", 1, 22, RICHARDSON_LUCY)))
        what = f"{'x'.join(map(str, shape))}, GPU, extended, loop alone"
        report.rows.append(row(what, loop, "its cuFFTs alone", floor_seconds, 1 / GOAL_CUFFT))
        report.notes.append(f"{what}: {1 / loop:.1f} iterations per second")
        if cucim is not None:
            psf_there = backend.to_device(kernel(), "gpu")

            def theirs(iterations: int, image: Any = image, psf_there: Any = psf_there) -> None:
                cucim.richardson_lucy(image, psf_there, num_iter=iterations, clip=False)
                synchronise(image)

            theirs(1)
            theirs_seconds = take_turns({"cuCIM": partial(theirs, 10)}, 3)["cuCIM"].median / 10
            report.rows.append(row(what, loop, "cuCIM, zero edges", theirs_seconds, None))


if __name__ == "__main__":
    main()
