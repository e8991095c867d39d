import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chunkflow.report import contact_sheet
from chunkflow.report.contact_sheet import common_window, shown, write_contact_sheet
from chunkflow.run.batch import BatchResult
from chunkflow.run.batch_pictures import SIDE_PX, picture_of
from chunkflow.run.batch_state import BatchState
from chunkflow.run.result import ResultVolume


def row(name, **values):
    known = {"file": f"{name}.tif", "result": name, "condition": "", "replicate": "", "status": "done"}
    return {
        **known,
        "error": "",
        "outlier": "",
        "objects": 3,
        "length_um": 1.5,
        "loops": 0,
        "saturated": False,
        **values,
    }


def picture(seed=0, shape=(90, 180)):
    gray = np.random.default_rng(seed).uniform(0, 100, shape).astype(np.float32)
    outlines = np.zeros(shape, bool)
    outlines[20:40, 20] = True
    return {"gray": gray, "outlines": outlines, "window": np.array([10.0, 90.0]), "pixel_um": np.array([0.1])}


@pytest.fixture
def batch(tmp_path):
    rows = [
        row("a"),
        row("b", outlier="objects 3 (median 41)"),
        row("c", status="failed", error="torn <file>"),
        row("d"),
    ]
    rows[3]["saturated"] = True
    for name in "abd":
        BatchState(tmp_path).store_picture(name, picture())
    return BatchResult(tmp_path, pd.DataFrame(rows), (), 42.5, ("conditions are those of x.csv",))


def figures(page):
    return re.findall(r"<figure class='shot (\w+)'>(.*?)</figure>", page, re.DOTALL)


def test_what_failed_comes_first_then_what_is_unusual_each_in_words(batch):
    page = write_contact_sheet(batch).read_text()
    kinds = [kind for kind, _ in figures(page)]
    assert kinds == ["failed", "unusual", "fine", "fine"]
    bodies = dict(zip("cbad", (body for _, body in figures(page)), strict=True))
    assert "failed: torn &lt;file&gt;" in bodies["c"]
    assert "unusual: objects 3 (median 41)" in bodies["b"]
    assert "saturated" in bodies["d"]
    assert "saturated" not in bodies["a"]
    assert "3&nbsp;objects · 1.5&nbsp;µm" in bodies["a"]
    assert "threshold 42.5" in page


def test_the_page_needs_nothing_beside_it_but_the_links(batch):
    page = write_contact_sheet(batch).read_text()
    assert "<script" not in page
    assert all(source.startswith("data:image/") for source in re.findall(r"src='([^']*)'", page))


def test_the_scale_bar_is_as_long_as_it_says(batch):
    page = write_contact_sheet(batch).read_text()
    percent, length = re.search(r"class='scale' style='width: ([\d.]+)%'>([\d.]+) µm", page).groups()
    assert float(percent) / 100 * 180 * 0.1 == pytest.approx(float(length), rel=1e-3)


def test_pictures_share_one_contrast_and_have_their_own_beside_it(batch):
    page = write_contact_sheet(batch).read_text()
    body = dict(zip("cbad", (body for _, body in figures(page)), strict=True))["a"]
    layers = dict(re.findall(r"<img class='(\w+)' src='data:image/\w+;base64,([^']+)'", body))
    assert set(layers) == {"same", "own", "outlines"}
    borders = np.asarray(Image.open(BytesIO(b64decode(layers["outlines"]))).convert("RGBA"))
    assert borders[30, 20].tolist() == [240, 228, 66, 255]
    assert borders[30, 22, 3] == 0
    assert common_window([picture(), {"window": np.array([20.0, 50.0])}, picture()]) == (10.0, 90.0)


def test_a_sheet_of_two_hundred_stays_under_four_megabytes(tmp_path):
    random = np.random.default_rng(0)
    blurred = np.clip(np.add.outer(np.arange(160.0), np.arange(160.0)) / 4 + random.normal(0, 5, (160, 160)), 0, 100)
    for k in range(200):
        state = {**picture(shape=(160, 160)), "gray": blurred.astype(np.float32)}
        BatchState(tmp_path).store_picture(str(k), state)
    path = write_contact_sheet(BatchResult(tmp_path, pd.DataFrame([row(str(k)) for k in range(200)]), (), None, ()))
    assert path.stat().st_size < 4e6


def test_of_many_results_those_to_look_at_and_an_even_choice_are_shown(monkeypatch):
    monkeypatch.setattr(contact_sheet, "MOST", 10)
    rows = [row(str(k)) for k in range(100)] + [row("odd", outlier="x"), row("bad", status="failed")]
    found = [entry["result"] for entry in shown(pd.DataFrame(rows))]
    assert found[:2] == ["bad", "odd"]
    assert len(found) == 10
    assert found[2] == "0"
    assert found[-1] == "99"


class Shown:
    """As much of a result as a picture looks at."""

    probability = mask = None

    def __init__(self, image, labels):
        self.image, self.labels = image, labels


def test_a_picture_is_the_brightest_voxel_with_the_borders_of_objects(tmp_path, write_volume):
    image = np.zeros((6, 20, 40), np.uint16)
    image[3, 5:10, 10:30] = 500
    labels = (image > 0).astype(np.uint32)
    volumes = [
        ResultVolume(write_volume(tmp_path / f"{name}.ome.zarr", array, (1.0, 0.4, 0.1)))
        for name, array in (("image", image), ("labels", labels))
    ]
    found = picture_of(Shown(*volumes))
    height, width = found["gray"].shape  # 20 x 0.4 um high, 40 x 0.1 um wide
    assert (height, width) == (SIDE_PX, SIDE_PX // 2)
    assert float(found["pixel_um"][0]) == pytest.approx(8 / SIDE_PX)
    assert found["gray"].max() == 500
    assert (found["gray"] > 0).mean() == pytest.approx((5 * 20) / (20 * 40), abs=0.01)
    assert found["outlines"].any()
    assert not found["outlines"][found["gray"] == 0].any()
