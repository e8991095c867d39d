"""The picture of a preview: its scale bar and sections are true, its colours are told apart by everybody."""

from io import BytesIO
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import Scale
from chunkflow.report import preview_picture as pictures
from chunkflow.run.preview import Histogram, Layer, Preview, Shown, ShownPsf

# Simulated dichromacy in linear RGB, severity 1: Machado, Oliveira & Fernandes (2009), table 1.
DICHROMATS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def shown(**changes: Any) -> Shown:
    empty: dict[str, Any] = dict.fromkeys(("after", "probability", "labels", "curves_um", "histogram", "psf"))
    return Shown(**{"title": "a=1", **empty, "curve_objects": (), "facts": {"time": "1.0 s"}, **changes})


def preview_with(
    *settings: Shown,
    shape: tuple[int, int, int] = (20, 60, 100),
    voxel: tuple[float, float, float] = (0.3, 0.1, 0.1),
    **of: Any,
) -> Preview:
    scale = Scale(voxel, (5.0, 7.0, 9.0))
    before = Layer(data=of.pop("data", np.zeros(shape, np.uint16)), scale=scale)
    box = Box((0, 0, 0), shape)
    return Preview(source="a.ome.zarr/0", kind=of.pop("kind", "image"), box=box, shape=shape, before=before,
                   settings=settings or (shown(),))  # fmt: skip


def pixels(preview: Preview) -> np.ndarray:
    with Image.open(BytesIO(preview.png())) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def bar_length(picture: np.ndarray, frame: Any) -> int:
    """Pixels of the white bar above the foot of the first section."""
    row = picture[round(pictures.TOP + pictures.HEAD + frame.height(1) - 14)]
    section = row[pictures.MARGIN : round(pictures.MARGIN + frame.width)]
    return int((section.min(axis=1) > 200).sum())


@pytest.mark.parametrize(("voxel", "um"), [((0.3, 0.1, 0.1), 2.0), ((1.0, 0.7, 0.7), 10.0), ((0.1, 0.013, 0.013), 0.2)])
def test_the_scale_bar_is_as_long_as_it_says(voxel: tuple[float, float, float], um: float) -> None:
    preview = preview_with(voxel=voxel)
    frame = pictures._Frame.of(preview)
    assert um == pictures.round_length(frame.width * frame.pixel / 4)
    assert bar_length(pixels(preview), frame) == pytest.approx(um / voxel[1] * frame.width / 100, abs=1.5)


def test_sections_keep_the_proportions_of_the_sample() -> None:
    frame = pictures._Frame.of(preview_with())
    assert frame.height(1) / frame.width == pytest.approx(6 / 10)
    assert frame.height(0) / frame.width == pytest.approx(6 / 10)
    deep = pictures._Frame.of(preview_with(shape=(200, 60, 100)))
    assert deep.total == pytest.approx(pictures.TALLEST)
    assert deep.height(0) / deep.width == pytest.approx(60 / 10)


def test_a_voxel_is_drawn_where_it_lies() -> None:
    data = np.zeros((20, 60, 100), np.uint16)
    data[7, 33, 71] = 1000
    preview = preview_with(data=data)
    frame, picture = pictures._Frame.of(preview), pixels(preview)
    side = frame.width / 100
    top = pictures.TOP + pictures.HEAD
    at = round(top + 33.5 * side), round(pictures.MARGIN + 71.5 * side)
    assert picture[at].tolist() == [255, 255, 255]
    below = round(top + frame.height(1) + pictures.SECTIONS_GAP + 7.5 * 3 * side), at[1]
    assert picture[below].tolist() == [255, 255, 255]
    assert picture[at[0], round(at[1] + 2 * side)].max() < 60


def test_a_layer_of_other_voxels_lies_over_the_same_place() -> None:
    """Resampled to half the voxel size, and begun further out, as borrowed statistics widen a region."""
    labels = np.zeros((80, 140, 220), np.uint8)
    labels[20 + 7 * 6 // 2 : 20 + 7 * 6 // 2 + 6, 10 + 66 : 10 + 68, 20 + 142 : 20 + 144] = 1
    scale = Scale((0.1, 0.05, 0.05), (5.0 - 0.1 - 2.0, 7.0 - 0.025 - 0.5, 9.0 - 0.025 - 1.0))
    preview = preview_with(shown(labels=Layer(data=labels, scale=scale), facts={"time": "1 s", "objects": "1 object"}))
    frame, picture = pictures._Frame.of(preview), pixels(preview)
    side, left = frame.width / 100, pictures.MARGIN + frame.width + pictures.GAP
    at = round(pictures.TOP + pictures.HEAD + 33.5 * side), round(left + 71.5 * side)
    assert np.abs(picture[at] - pictures.TOL[pictures._hashed(np.array(1))]).max() < 60
    assert picture[at[0], at[1] + round(3 * side)].max() < 20


def test_the_colours_of_objects_differ_for_every_kind_of_colour_vision() -> None:
    colors = pictures.TOL / 255
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    for matrix in (np.eye(3), *map(np.array, DICHROMATS.values())):
        seen = (linear @ matrix.T).clip(0, 1)
        srgb = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = rgb2lab(srgb[None])[0]
        assert min(np.linalg.norm(a - b) for a, b in combinations(lab, 2)) > 9


def test_neighbouring_ids_seldom_share_a_colour() -> None:
    numbers = pictures._hashed(np.arange(1, 1000))
    assert np.unique(numbers).tolist() == list(range(len(pictures.TOL)))
    assert (numbers[1:] == numbers[:-1]).mean() < 0.02


def test_touching_objects_are_parted_by_a_dark_line() -> None:
    labels = np.zeros((8, 10), np.uint8)
    labels[:, :5], labels[:, 5:] = 1, 2
    found = pictures._colored(np.zeros((8, 10, 3), np.uint8), labels)
    assert (found[:, 4:6] == pictures.LINE).all()
    assert (found[:, :3] != pictures.LINE).any(axis=2).all()


def full(kind: str = "image", shape: tuple[int, int, int] = (20, 60, 100)) -> Preview:
    """All that there can be."""
    rng = np.random.default_rng(0)
    scale = Scale((0.3, 0.1, 0.1), (5.0, 7.0, 9.0))
    data = rng.poisson(100, shape).astype(np.uint16)
    labels = Layer(data=(data > 110).astype(np.uint8), scale=scale)
    counts, edges = np.histogram(data, 300)
    histogram = Histogram(counts=counts, edges=edges, threshold=110.0, name="otsu")
    psf = ShownPsf(voxels=np.ones((1, 5, 5), np.float32), voxel_um=(0.3, 0.1, 0.1), fwhm_um=(None, 0.3, 0.3))
    curve = np.array([[5.0, 7.0, 9.0], [6.0, 8.0, 10.0], [50.0, 8.0, 10.0]])
    facts = {"objects": "2 objects", "foreground": "3.0 % of the voxels", "skeleton": "1.0 um", "time": "1.0 s"}
    one = shown(after=Layer(data=data, scale=scale), probability=Layer(data=data / 200, scale=scale), labels=labels,
                curves_um=(curve,), curve_objects=(1,), histogram=histogram, psf=psf, facts=facts)  # fmt: skip
    local = shown(histogram=Histogram(counts=counts, edges=edges, threshold=None, name="sauvola"), facts=facts)
    return preview_with(one, local, shape=shape, data=data, kind=kind)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("image", (20, 60, 100)), ("image", (1, 60, 100)), ("mask", (20, 1, 100)), ("labels", (3, 4, 5))],
)
def test_every_kind_and_shape_can_be_drawn(kind: str, shape: tuple[int, int, int]) -> None:
    picture = pixels(full(kind, shape))
    assert picture.shape[1] > 400
    assert (picture[-4:] == 255).all()  # nothing is cut off at the foot
    assert (picture[:, -8:] == 255).all()


def test_a_histogram_of_nothing_but_one_value_can_be_drawn() -> None:
    counts, edges = np.array([0, 7, 0]), np.array([1.0, 2.0, 3.0, 4.0])
    for threshold in (None, 0.5, 2.5, 9.0):
        histogram = Histogram(counts=counts, edges=edges, threshold=threshold, name="fixed")
        assert pixels(preview_with(shown(histogram=histogram))).size
