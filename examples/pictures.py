"""What deconvolution does to two real stacks, and the shipped network to a synthetic one, as pictures: docs/yeast.png,
docs/dapi.png and docs/network.png.

    python examples/pictures.py DATA_FOLDER [OUT]

DATA_FOLDER holds yeast_mito_01.tif of the MitoGraphTools example data (https://github.com/vianamp/MitoGraphTools)
and dapi_nucleus.tif, the stack of deconwolf's demo (https://github.com/elgw/deconwolf, demo/dapi_001.tif). OUT is
this folder's ../docs by default. Prints how wide the tubes are before and after.

Every picture runs from black to white between two percentiles of its own, all with the same gamma: a restored image is
brighter where it is sharper, so grey values cannot be shared.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

import chunkflow as cf
from chunkflow.run.demo_network import run_network_demo
from chunkflow.run.result import ResultVolume
from chunkflow.storage.importing import import_image
from chunkflow.synth.crowds import VOXEL_UM

Voxels = NDArray[np.float32]
Panel = tuple[str, Image.Image]

HERE = Path(__file__).parent
MITOCHONDRIA = HERE / "mitochondria.yaml"
YEAST_UM = (0.2, 0.056, 0.056)
GAUSSIAN = cf.Psf(fwhm_um=(0.6, 0.25, 0.25))

NUCLEUS_UM = (0.3, 0.13, 0.13)
# The optics that deconwolf's demo gives. The PSF is not cut where it gets faint (floor: 0): in widefield most of the
# light of a thick object is out of focus, and what the PSF lacks of it stays in the image as haze.
NUCLEUS = cf.Deconvolve(
    psf=cf.Psf(microscope="widefield", na=1.45, immersion_index=1.512, sample_index=1.512, emission_nm=461, floor=0.0),
    iterations=30,
    momentum=True,
    background=1700,
)

GAMMA = 0.7
BLACK, WHITE = 5.0, 99.9
"""Percentiles of a picture."""
ZOOM = 3
"""Pixels per voxel, in y and x."""
GREYS = 64
"""Shades of a picture: enough for the eye, and half the file."""
RED = (255, 72, 56)
GAP, HEAD = 6, 26
UP = np.array([1.0, 0.0, 0.0])
REACH = 25
"""Voxels to either side of a tube that are looked at."""
NEAR_SECTION = 3
"""Voxels from a section up to which the skeleton is drawn onto it."""
NEAR_END = 6
"""Points at the ends of a branch where no width is taken: other branches are near."""


def main() -> None:
    """Read the arguments, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the TIFF files")
    parser.add_argument("out", type=Path, nargs="?", default=HERE.parent / "docs", help="folder of the pictures")
    given = parser.parse_args()
    with TemporaryDirectory() as scratch:
        draw_yeast(given.data / "yeast_mito_01.tif", Path(scratch), given.out / "yeast.png")
        draw_nucleus(given.data / "dapi_nucleus.tif", Path(scratch), given.out / "dapi.png")
        draw_network(Path(scratch), given.out / "network.png")


def draw_yeast(tiff: Path, scratch: Path, path: Path) -> None:
    """Mitochondria: raw, restored with a Gaussian and with the microscope's PSF, and the skeleton of the last."""
    stack = scratch / "yeast.ome.zarr"
    import_image(tiff, stack, voxel_um=YEAST_UM)
    pipeline = cf.Pipeline.from_yaml(MITOCHONDRIA)
    restore, *rest = pipeline.stages
    assert isinstance(restore, cf.Deconvolve)
    result = pipeline.plan(stack, scratch / "optics").run(on="serial")

    volumes = {
        "raw": image_of([cf.Resample(voxel_um="isotropic")], stack, scratch / "raw"),
        "Gaussian PSF": image_of([replace(restore, psf=GAUSSIAN), rest[0]], stack, scratch / "gaussian"),
        "spinning-disk PSF": voxels(result.image),
    }
    voxel = YEAST_UM[1]
    curves = [data["points"] / voxel for _, _, data in result.graph.edges(data=True)]
    tell_widths(volumes, curves, voxel)

    labels = voxels(result.labels) > 0
    part = around(labels, margin=14)
    y = int(labels[part].sum(axis=(0, 2)).argmax())
    panels = []
    for title, volume in volumes.items():
        shown = volume[part]
        panels.append((title, stacked([grey(shown.max(axis=0), ZOOM), grey(shown[:, y], ZOOM)])))
        mark_row(panels[-1][1], y * ZOOM)
    lines = panels[-1][1].copy()
    corner, height = np.array([s.start for s in part]), labels[part].shape[1] * ZOOM + GAP
    for curve in (each - corner for each in curves):
        draw_curve(lines, curve[:, 1:], (0, 0))
        for piece in pieces(curve, np.abs(curve[:, 1] - y) <= NEAR_SECTION):
            draw_curve(lines, piece[:, [0, 2]], (height, 0))
    panels.append(("with its skeleton", lines))
    save(panels, path, um_per_pixel=voxel / ZOOM, bar_um=2)


def draw_nucleus(tiff: Path, scratch: Path, path: Path) -> None:
    """A nucleus in widefield light, before and after: a plane, and a section along the optical axis."""
    stack = scratch / "nucleus.ome.zarr"
    import_image(tiff, stack, voxel_um=NUCLEUS_UM)
    volumes = {
        "widefield, raw": np.asarray(cf.open_volume(stack)[...], np.float32),
        "deconvolved": image_of([NUCLEUS], stack, scratch / "nucleus"),
    }
    z, y = 19, 100  # through the nucleoli
    tall = NUCLEUS_UM[0] / NUCLEUS_UM[1]
    panels = [(title, stacked([grey(v[z], ZOOM), grey(v[:, y], ZOOM, tall)])) for title, v in volumes.items()]
    for _, panel in panels:
        mark_row(panel, y * ZOOM)
    save(panels, path, um_per_pixel=NUCLEUS_UM[1] / ZOOM, bar_um=5)


def draw_network(scratch: Path, path: Path) -> None:
    """The demo's synthetic stack, what the network that comes with the package makes of it, and the truth."""
    result = run_network_demo(scratch / "network").result
    stack = scratch / "network" / "stack.ome.zarr"
    seen, truth = (np.asarray(cf.open_volume(path)[...], np.float32) for path in (stack, stack / "labels" / "truth"))
    panels = [
        ("synthetic stack", grey(seen.max(axis=0), ZOOM)),
        ("deconvolved", grey(voxels(result.image).max(axis=0), ZOOM)),
        ("probability", grey(voxels(result.probability).max(axis=0), ZOOM)),
        ("objects and skeleton", grey((voxels(result.labels) > 0).max(axis=0), ZOOM)),
        ("truth", grey(truth.max(axis=0), ZOOM)),
    ]
    panels = [(title, stacked([panel])) for title, panel in panels]
    for _, _, data in result.graph.edges(data=True):
        draw_curve(panels[3][1], data["points"][:, 1:] / VOXEL_UM, (0, 0))
    save(panels, path, um_per_pixel=VOXEL_UM / ZOOM, bar_um=1)


def image_of(stages: Sequence[Any], stack: Path, out: Path) -> Voxels:
    """The image that these stages leave."""
    pipeline = cf.Pipeline(stages, output=cf.OutputOptions(save=("image",)))
    result = pipeline.plan(stack, out).run(on="serial")
    return voxels(result.image)


def voxels(volume: ResultVolume | None) -> Voxels:
    """All of what a run saved."""
    assert volume is not None
    return np.asarray(volume[...], np.float32)


def tell_widths(volumes: Mapping[str, Voxels], curves: Sequence[NDArray[np.float64]], voxel_um: float) -> None:
    """Print full widths at half maximum across tubes, in the plane and along z."""
    points, across = cross_sections(curves)
    print(f"{len(points)} cross-sections of tubes; full widths at half maximum, um: quartiles")
    for title, volume in volumes.items():
        lateral, axial = (
            widths(volume, points, across) * voxel_um,
            widths(volume, points, [UP] * len(points)) * voxel_um,
        )
        print(f"  {title:18} in plane {quartiles(lateral)}   along z {quartiles(axial)}")


def cross_sections(
    curves: Sequence[NDArray[np.float64]],
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Points on tubes, and the directions in the plane that run across them.

    curves : (N, 3) points in voxels; taken every third one where a tube rises by less than it advances.
    """
    points, across = [], []
    for curve in curves:
        if len(curve) <= 2 * NEAR_END:
            continue
        along = np.gradient(ndimage.gaussian_filter1d(curve, 2, axis=0), axis=0)
        for k in range(NEAR_END, len(curve) - NEAR_END, 3):
            lateral = np.hypot(along[k, 1], along[k, 2])
            if lateral > abs(along[k, 0]):
                points.append(curve[k])
                across.append(np.array([0, -along[k, 2], along[k, 1]]) / lateral)
    return points, across


def widths(
    volume: Voxels, points: Sequence[NDArray[np.float64]], directions: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Full widths at half maximum through every point, in voxels; the ground is the volume's median."""
    ground = float(np.median(volume))
    return np.array([width(volume, *each, ground) for each in zip(points, directions, strict=True)])


def quartiles(values: NDArray[np.float64]) -> str:
    """The three of them, of the values that are known."""
    return " ".join(f"{value:.3f}" for value in np.nanpercentile(values, (25, 50, 75)))


def width(volume: Voxels, point: NDArray[np.float64], direction: NDArray[np.float64], ground: float) -> float:
    """One of `widths`; NaN where the profile does not fall to half. The maximum is that within three voxels."""
    offsets = np.arange(-REACH, REACH + 0.05, 0.1)
    profile = ndimage.map_coordinates(volume, (point[:, None] + direction[:, None] * offsets), order=1, mode="nearest")
    middle = np.flatnonzero(np.abs(offsets) <= 3)
    peak = int(middle[profile[middle].argmax()])
    below = profile < (profile[peak] + ground) / 2
    before, after = np.flatnonzero(below[:peak]), np.flatnonzero(below[peak:])
    if not len(before) or not len(after):
        return float("nan")
    return float(offsets[peak + after[0]] - offsets[before[-1]])


def around(mask: NDArray[np.bool_], margin: int) -> tuple[slice, ...]:
    """The box of all that is set, grown by a margin as far as the array goes."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    return tuple(slice(max(s.start - margin, 0), min(s.stop + margin, n)) for s, n in zip(box, mask.shape, strict=True))


def grey(picture: Voxels, zoom: int, tall: float = 1.0) -> Image.Image:
    """Pixels from values; `tall` is the height of a voxel over its width."""
    rows, columns = picture.shape
    image = Image.fromarray(picture.astype(np.float32))
    larger = np.asarray(image.resize((columns * zoom, round(rows * tall * zoom)), Image.Resampling.BICUBIC))
    black, white = np.percentile(larger, (BLACK, WHITE))
    shown = ((larger - black) / (white - black)).clip(0, 1) ** GAMMA
    return Image.fromarray((np.round(shown * (GREYS - 1)) * (255 / (GREYS - 1))).astype(np.uint8))


def stacked(images: Sequence[Image.Image]) -> Image.Image:
    """One below the other, on white."""
    panel = Image.new("RGB", (images[0].width, sum(i.height for i in images) + GAP * (len(images) - 1)), "white")
    top = 0
    for image in images:
        panel.paste(image, (0, top))
        top += image.height + GAP
    return panel


def mark_row(panel: Image.Image, y: int) -> None:
    """Ticks at both sides: where the section below was cut."""
    draw = ImageDraw.Draw(panel)
    for left in (0, panel.width - 13):
        draw.line((left, y, left + 12, y), fill="white", width=2)


def pieces(curve: NDArray[np.float64], shown: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """The parts of a curve that are shown, two points and more each."""
    cuts = np.flatnonzero(shown[1:] != shown[:-1]) + 1
    parts = zip(np.split(curve, cuts), np.split(shown, cuts), strict=True)
    return [part for part, is_shown in parts if is_shown[0] and len(part) > 1]


def draw_curve(panel: Image.Image, curve: NDArray[np.float64], origin: tuple[int, int]) -> None:
    """Points in voxels, rows and columns, joined by lines; `origin` is the pixel of row 0, column 0."""
    pixels = (curve + 0.5) * ZOOM + np.array(origin)
    draw = ImageDraw.Draw(panel)
    for (row, column), (next_row, next_column) in pairwise(pixels):
        draw.line((column, row, next_column, next_row), fill=RED, width=2)


def save(panels: Sequence[Panel], path: Path, *, um_per_pixel: float, bar_um: float) -> None:
    """Panels side by side under their titles, a scale bar in the first."""
    font = ImageFont.load_default(size=17)
    width = sum(panel.width + GAP for _, panel in panels) - GAP
    canvas = Image.new("RGB", (width, HEAD + panels[0][1].height), "white")
    draw = ImageDraw.Draw(canvas)
    left = 0
    for title, panel in panels:
        canvas.paste(panel, (left, HEAD))
        draw.text((left + 2, 2), title, fill="black", font=font)
        left += panel.width + GAP
    long, bottom = round(bar_um / um_per_pixel), canvas.height - 12
    draw.line((12, bottom, 12 + long, bottom), fill="white", width=4)
    draw.text((12 + long / 2, bottom - 6), f"{bar_um:g} um", fill="white", font=font, anchor="mb")
    canvas.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
