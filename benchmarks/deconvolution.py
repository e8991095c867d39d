"""Richardson-Lucy on one array: chunkflow's kernel beside scikit-image, same data, PSF and iterations.

Ours estimates the object beyond the sides of the image (extended domain) and models the camera's offset; scikit-image
takes the image as dark outside. Both transform arrays of the same padded size. Correlations with the known truth stand
in the remarks, so that speed is not bought with quality.
"""

from __future__ import annotations

import numpy as np
from common import Report, Row, options, peak_mib, spread, take_turns
from numpy.typing import NDArray
from skimage.restoration import richardson_lucy

from chunkflow.kernels import deconvolve, psf
from chunkflow.synth import optics, phantoms

SHAPE, QUICK_SHAPE = (64, 256, 256), (32, 128, 128)
PSF_SIDE = 31
ITERATIONS = 20
VOXEL_UM = (0.1, 0.1, 0.1)
FWHM_UM = (0.6, 0.25, 0.25)
BACKGROUND = 10.0


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    report = Report("deconvolve", "Richardson-Lucy beside scikit-image", given, ["scipy", "scikit-image"])
    shape = QUICK_SHAPE if given.quick else SHAPE
    truth = phantoms.mitochondria(shape, VOXEL_UM, seed=1).labels > 0
    image = optics.acquire(truth, voxel_um=VOXEL_UM, seed=1, fwhm_um=FWHM_UM, background=BACKGROUND).astype(np.float32)
    kernel = _of_side(psf.gaussian(FWHM_UM, VOXEL_UM), PSF_SIDE)
    above = np.maximum(image - BACKGROUND, 0)
    start = float(above.mean())

    def ours(iterations: int = ITERATIONS) -> NDArray[np.float32]:
        restored: NDArray[np.float32] = deconvolve.richardson_lucy(
            image, kernel, iterations=iterations, background=BACKGROUND, start=start
        )
        return restored

    def skimage(iterations: int = ITERATIONS) -> NDArray[np.float32]:
        return np.asarray(richardson_lucy(above, kernel, num_iter=iterations, clip=False, filter_epsilon=1e-6))

    ours(1)
    skimage(1)
    times = take_turns({"ours": ours, "scikit-image": skimage}, given.rounds)
    what = f"{'x'.join(map(str, shape))} float32, PSF {PSF_SIDE}^3, {ITERATIONS} iterations"
    name = "scikit-image richardson_lucy"
    report.rows += [
        Row(name=f"{what} [s]", ours=times["ours"].median, peer=name, peer_value=times["scikit-image"].median),
        Row(
            name="peak memory beside the inputs [MiB]",
            ours=peak_mib(lambda: ours(2)),
            peer=name,
            peer_value=peak_mib(lambda: skimage(2)),
        ),
    ]
    correlations = [np.corrcoef(array.ravel(), truth.ravel())[0, 1] for array in (image, ours(), skimage())]
    before, restored, peers = correlations
    report.notes += [
        spread(times),
        f"correlation with the truth: image {before:.3f}, ours {restored:.3f}, scikit-image {peers:.3f}",
        f"memory: {deconvolve.working_set_bytes(shape, kernel.shape) / 2**20:.0f} MiB is what a plan projects for ours",
    ]
    report.finish()


def _of_side(kernel: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The kernel cut, or padded by zeros, to a cube of odd side, its centre kept; sums to 1."""
    cube = np.zeros((side,) * 3, np.float32)
    kept = [min(n, side) // 2 for n in kernel.shape]
    inner = tuple(slice(side // 2 - k, side // 2 + k + 1) for k in kept)
    outer = tuple(slice(n // 2 - k, n // 2 + k + 1) for n, k in zip(kernel.shape, kept, strict=True))
    cube[inner] = kernel[outer]
    return np.asarray(cube / cube.sum(), np.float32)


if __name__ == "__main__":
    main()
