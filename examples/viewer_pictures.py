"""A synthetic result as the viewers show it: docs/neuroglancer.png and docs/napari.png.

    xvfb-run -a -s "-screen 0 1400x900x24" python examples/viewer_pictures.py [OUT]

OUT is this folder's ../docs by default. Needs Chromium, and a display (or xvfb) for napari.
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from qtpy.QtWidgets import QApplication

import chunkflow as cf
from chunkflow.run.synthesise import synthesise
from chunkflow.view.neuroglancer import screenshot
from chunkflow.view.plugin import open_napari

HERE = Path(__file__).parent
SHAPE = (48, 280, 300)
COLORS = 128
"""Of a picture: a third of the bytes, and the same to the eye."""
MARGIN = 0.02
"""Share of the canvas left free around the volume."""


def main() -> None:
    """Read the arguments, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=HERE.parent / "docs", help="folder of the pictures")
    given = parser.parse_args()
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        synthesise(folder, shape=SHAPE, voxel_um=(0.2, 0.08, 0.08), seed=4)
        pipeline = cf.Pipeline([cf.Threshold(smooth_um=0.06), cf.Label(min_voxels=64), cf.Skeleton(), cf.Measure()])
        result = pipeline.plan(folder / "image.ome.zarr", folder / "out").run(on="serial")
        save(screenshot(result.path, size=(1000, 750)), given.out / "neuroglancer.png")
        draw_napari(result, largest_on_a_plane(result), folder / "napari.png")
        save((folder / "napari.png").read_bytes(), given.out / "napari.png")


def largest_on_a_plane(result: cf.Result) -> tuple[int, int, int]:
    """A voxel of the largest object, on the plane that holds most of all objects."""
    assert result.labels is not None
    labels = result.labels[...]
    z = int((labels > 0).sum(axis=(1, 2)).argmax())
    ids, counts = np.unique(labels[z][labels[z] > 0], return_counts=True)
    inside = np.argwhere(labels[z] == ids[counts.argmax()])
    y, x = inside[len(inside) // 2].tolist()
    return z, y, x


def draw_napari(result: cf.Result, at: tuple[int, int, int], path: Path) -> None:
    """The window on a plane, with the row of the object there."""
    viewer = open_napari(result.path)
    viewer.window.resize(1200, 780)
    objects = viewer.layers["objects"]
    place = objects.data_to_world(at)
    viewer.dims.set_point(0, place[0])
    rows = next(iter(viewer.window.dock_widgets.values()))
    rows.show_at(place, None, [1, 2])
    settle()
    viewer.reset_view(margin=MARGIN)  # the canvas has its size only now, beside the table
    settle()
    viewer.screenshot(str(path), canvas_only=False, flash=False)
    viewer.close()


def settle() -> None:
    """Let the window do what it has been asked."""
    for _ in range(30):
        QApplication.processEvents()


def save(png: bytes, path: Path) -> None:
    """Write a picture with few colours."""
    with Image.open(BytesIO(png)) as picture:
        picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
