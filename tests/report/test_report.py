"""The report against what the run holds."""

from __future__ import annotations

import re
import shutil
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import chunkflow as cf
from chunkflow.errors import ChunkflowError
from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import Scale
from chunkflow.report import pictures
from chunkflow.report.html import number
from chunkflow.report.report import write_report
from chunkflow.run.journal import Journal
from chunkflow.run.result import Result, open_result
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.omezarr_write import write_image_group
from chunkflow.storage.tables import write_table
from chunkflow.storage.volume import create_array

VOXEL_UM = (0.3, 0.1, 0.1)
VOID_TAGS = {"meta", "img", "input", "line", "br", "hr", "link"}
STAGES = [
    cf.Threshold(method="fixed", value=50.0),
    cf.Label(),
    cf.Skeleton(),
    cf.Measure(),
]


class Page(HTMLParser):
    """Tags, links and text of a page; fails on tags that do not nest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.images: dict[str, str] = {}
        self.tags: set[str] = set()
        self.text = ""
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()
        assert self.open == []
        self.pipeline = self.text.partition("Every default is spelt out.")[2].partition("Open the result")[0].strip()
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        facts = dict(attrs)
        self.tags.add(tag)
        self.links += [facts[name] for name in ("src", "href") if name in facts]
        if tag == "img":
            self.images[facts["alt"]] = facts["src"]
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += " " + data


def save(folder: Path, data: Any) -> Path:
    path, scale = folder / "sample & co.ome.zarr", Scale(VOXEL_UM)
    write_image_group(path, name="sample", levels={"0": scale})
    volume = create_array(path / "0", layout_for_core((32, 32, 32), data.shape, data.dtype.name), scale)
    volume.write(Box.of_shape(data.shape), data)
    return path


def rings() -> Any:
    """Two flat rings and a rod of 100 on 0 to 20, in 13 x 41 x 67 voxels."""
    image = np.random.default_rng(5).integers(0, 20, (13, 41, 67), dtype=np.uint16)
    y, x = np.mgrid[:41, :67]
    for cy, cx in ((14, 16), (24, 48)):
        radius = np.hypot(y - cy, x - cx)
        image[5:8, (radius > 7) & (radius < 11)] = 100
    image[9:12, 33:36, 5:60] = 100
    return image


def run(folder: Path, data: Any, stages: Any, block: Any = (64, 64, 96), **options: Any) -> Result:
    pipeline = cf.Pipeline(
        stages,
        input=cf.InputOptions(kind=options.pop("kind", "image")),
        output=cf.OutputOptions(save=options.pop("save", ("image", "labels", "skeleton"))),
    )
    plan = pipeline.plan(str(save(folder, data)), folder / "out", block=block)
    return plan.run(on="serial", device="cpu")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(tmp_path_factory.mktemp("rings"), rings(), STAGES, block=(32, 32, 64))


def read(result: Result, **facts: Any) -> Page:
    return Page(write_report(result, **facts))


def test_the_page_is_whole_and_asks_nothing_of_the_network(result: Result) -> None:
    page = read(result)
    assert {"html", "main", "table", "svg", "pre", "img", "canvas"} <= page.tags
    assert page.tags.isdisjoint({"link", "iframe", "object", "embed", "base", "form"})
    policy = re.search('http-equiv=.Content-Security-Policy. content="([^"]*)"', page.html)
    assert policy and "default-src 'none'" in policy[1] and "connect-src" not in policy[1] and "http" not in policy[1]
    assert "://" not in re.sub("<svg[^>]*>|<pre.*?</pre>", "", page.html, flags=re.DOTALL)
    script = "".join(re.findall("<script>(.*?)</script>", page.html, re.DOTALL))
    assert script and not re.search(r"fetch|XMLHttp|WebSocket|import|eval|innerHTML|src\s*=", script)
    assert all(link.startswith(("data:image/png;base64,", "tables/")) for link in page.links)
    assert "url(" not in page.html and "@import" not in page.html
    assert all((result.path / link).is_file() for link in page.links if link.startswith("tables/"))
    assert (
        "sample &amp; co.ome.zarr" in page.html
        and "sample & co" not in page.html
        and "sample & co.ome.zarr" in page.text
    )
    assert "$" not in re.sub("base64,[^']*|<script>.*?</script>", "", page.html, flags=re.DOTALL)
    assert len(page.html) < 4 * 2**20


def test_the_numbers_are_those_of_the_tables(result: Result) -> None:
    page = read(result)
    objects, branches, nodes = result.objects, result.branches, result.nodes
    assert (len(objects), objects["b1_filled"].sum()) == (3, 2)
    assert "3 objects with 2 loops" in page.text
    for words in (
        f"{number(branches['length_um'].sum())} µm total length",
        f"{number(objects['volume_um3'].sum())} µm³ total volume",
        f"{number(2 * np.average(branches['radius_mean_um'], weights=branches['length_um']))} µm mean diameter",
        f"{(nodes['kind'] == 'end').sum()} free ends",
        f"{(nodes['kind'] == 'junction').sum()} junctions",
        "In all 3 objects the skeleton has exactly as many loops as the object itself: 2 in the skeletons, 2 in",
    ):
        assert words in page.text
    for column in ("volume_um3", "intensity_mean", "centroid_x_um"):
        assert all(f"<td>{number(value)}</td>" in page.html for value in objects[column])
    for column in ("length_um", "tortuosity", "radius_mean_um"):
        assert all(f"<td>{number(value)}</td>" in page.html for value in branches[column])


def expert_part(page: Page) -> str:
    return page.html[page.html.index("<details id='expert'>") :]


def test_words_of_topology_are_in_the_part_for_experts_alone(result: Result) -> None:
    page = read(result)
    expert = expert_part(page)
    for word in ("Betti", "b1_filled", "Certificate", "certified", "Euler", "cyclomatic", "SHA-256"):
        assert word in expert
    everybody = page.html.replace(expert, "")
    visible = re.sub("<style>.*?</style>|base64,[^']*|<[^>]*>", " ", everybody, flags=re.DOTALL)
    assert not re.search(r"\bb[012]\b|b1_|betti|certif|taint|cyclomatic|euler", visible, re.IGNORECASE)
    assert "loops" in visible


def test_only_the_first_rows_of_a_long_table_are_shown(tmp_path: Path) -> None:
    image = np.zeros((2, 48, 60), np.uint8)
    image[0, ::4, ::5] = 100
    page = read(run(tmp_path, image, [cf.Threshold(method="fixed", value=50.0), cf.Label(), cf.Measure()]))
    assert "144 objects with 0 loops in" in page.text and "The first 20 of 144 objects" in page.text
    table = page.html[page.html.index("<h2>Objects</h2>") :]
    assert table[: table.index("</table>")].count("<tr>") == 21


def test_what_ran_can_be_run_again_from_the_page(result: Result, tmp_path: Path) -> None:
    page = read(result)
    pipeline = cf.Pipeline.from_dict(yaml.safe_load(page.pipeline))
    assert list(pipeline.stages) == STAGES
    assert pipeline.input.path == str(result.path.parent / "sample & co.ome.zarr")
    assert pipeline.output.path == str(result.path)
    assert pipeline.block == (32, 32, 64)
    again = pipeline.plan(output=tmp_path / "again").run(on="serial", device="cpu")
    assert again.objects.equals(result.objects)
    assert "13 × 41 × 67 voxels" in page.text and "0.3 × 0.1 × 0.1 µm" in page.text and "numpy" in page.text


def test_every_pass_is_there_with_its_blocks(result: Result) -> None:
    page = read(result)
    for name, blocks in (("label", 4), ("graph", 1), ("objects", 1)):
        assert re.search(f"<td class=text>{name}</td><td>{blocks}</td>", page.html)


def test_truth_is_compared_with_what_was_found(result: Result) -> None:
    page = read(
        result,
        truth={"objects": 3, "loops": 4, "length_um": 1.0, "dice": 1.0, "my own": 2.5},
        found={"dice": 0.95, "my own": 2.5},
        tolerance={"objects": 0.0, "loops": 0.4, "dice": 0.05},
    )
    rows = re.findall("<tr>(.*?)</tr>", page.html[page.html.index("Found against truth") :])[1:6]
    cells = [re.sub("<[^>]*>", "|", row) for row in rows]
    assert re.search(r"objects\|+3\|+3\|+0\|+0\|+0\|+within", cells[0])
    assert re.search(r"loops\|+4\|+2\|+-2\|+50\|+40\|+outside", cells[1])
    assert cells[2].strip("|").startswith("total length, µm|") and "within" not in cells[2]
    assert re.search(r"Dice.*\|+1\|+0\.95\|+-0\.05\|+5\|+5\|+within", cells[3])
    assert re.search(r"my own\|+2.5\|+2.5\|+0\|+0", cells[4])
    kept = read(result)  # a report that is written again has it too
    assert re.findall("<tr>(.*?)</tr>", kept.html[kept.html.index("Found against truth") :])[1:6] == rows
    (result.path / "run" / "truth.json").write_text("{}")
    assert "Found against truth" not in read(result).text


def test_an_object_that_fails_its_check_is_named(result: Result, tmp_path: Path) -> None:
    shutil.copytree(result.path, tmp_path / "out")
    other = Result(tmp_path / "out")
    objects = other.objects
    objects.loc[1, ["b1_graph", "certified"]] = [5, False]
    columns = {str(name): column.to_numpy() for name, column in objects.items()}
    write_table(tmp_path / "out/tables", "objects", columns | {"certified": columns["certified"].astype(bool)})
    page = read(other)
    assert "2 of 3 objects passed the check of skeletons" in page.text and "2 of 3" in expert_part(page)
    assert "in 1 it has not: object 2." in page.text and "Do not rely on the skeleton of object 2." in page.text


def test_closed_cavities_are_told(tmp_path: Path) -> None:
    image = np.zeros((9, 12, 14), np.uint8)
    image[2:7, 2:8, 2:9] = 100
    image[4, 4, 4] = 0
    assert "1 closed cavity." in read(run(tmp_path, image, STAGES)).text


@pytest.mark.parametrize("kind", ["mask", "labels"])
def test_masks_and_labels_need_no_image(tmp_path: Path, kind: str) -> None:
    data = (rings() > 50).astype(np.uint16) * 7
    page = read(run(tmp_path, data, [cf.Label(), cf.Skeleton(), cf.Measure()][kind == "labels" :], kind=kind))
    assert "with 2 loops" in page.text and ("1 of 1 object" if kind == "labels" else "3 of 3 objects") in page.text
    assert len([name for name in page.images if "slice" in name]) == 9 and "Black is" not in page.text
    assert "mean intensity" not in page.text


def test_a_plane_is_one_picture(tmp_path: Path) -> None:
    page = read(run(tmp_path, rings()[6:7], STAGES))
    assert sorted(page.images) == [f"xy slice: {kind}" for kind in ("curves", "gray", "outlines")]
    assert "The image is a single plane." in page.text


def test_nothing_found_is_said(tmp_path: Path) -> None:
    image = rings() // 10
    page = read(run(tmp_path, image, STAGES))
    assert "No objects in" in page.text and "There are no objects." in page.text
    assert "xy slice: gray" in page.images


def test_an_image_alone_is_a_report_and_not_called_restored(tmp_path: Path) -> None:
    page = read(run(tmp_path, rings(), [cf.Resample()]))
    assert " An image in" in page.text and "restored" not in page.text
    assert "Certificate" not in page.text
    assert sorted(page.images) == [
        f"{plane} {how}: gray" for plane in ("xy", "xz", "zy") for how in ("projection", "slice")
    ]


def test_what_was_said_of_the_input_is_told(tmp_path: Path) -> None:
    labels = (rings() > 50).astype(np.uint16)
    page = read(run(tmp_path, labels, [cf.Measure()], kind="labels", save=()))
    assert "read as kind: labels" in page.text
    assert "intensities are those" not in page.text


def test_without_a_skeleton_the_objects_are_told(tmp_path: Path) -> None:
    page = read(run(tmp_path, rings(), [cf.Threshold(), cf.Label(), cf.Measure()]))
    assert "makes no skeleton" in page.text and "3 objects with 2 loops" in page.text
    assert "Branches" not in page.text and "(otsu, from the histogram of the whole volume)" in page.text


def test_without_measures_the_objects_are_counted(tmp_path: Path) -> None:
    page = read(run(tmp_path, rings(), [cf.Threshold(method="fixed", value=50.0), cf.Label()]))
    assert "3 objects in" in page.text and "measures no objects" in page.text


def test_saving_nothing_leaves_the_tables(tmp_path: Path) -> None:
    page = read(run(tmp_path, rings(), STAGES, save=()))
    assert page.images == {} and "nothing to show" in page.text
    assert "3 objects with 2 loops" in page.text


def test_a_damaged_array_costs_only_the_pictures(result: Result, tmp_path: Path) -> None:
    shutil.copytree(result.path, tmp_path / "out")
    chunks = [path for path in (tmp_path / "out" / "image.ome.zarr" / "labels" / "objects").rglob("c/*/*/*")]
    for path in chunks:
        path.write_bytes(b"damaged" * 30)
    page = read(open_result(tmp_path / "out"))
    assert chunks and "This part could not be made" in page.text
    assert "3 objects with 2 loops" in page.text
    assert not [name for name in page.images if "slice" in name]


@pytest.mark.parametrize("spoil", ["{", '{"plan": {}}', ""])
def test_a_report_that_cannot_be_written_is_a_chunkflow_error(result: Result, tmp_path: Path, spoil: str) -> None:
    shutil.copytree(result.path / "run", tmp_path / "out" / "run")
    (tmp_path / "out" / "run" / "plan.json").write_text(spoil)
    with pytest.raises(ChunkflowError, match="plan.json|report"):
        write_report(Result(tmp_path / "out"))


def test_blocks_that_were_set_aside_are_told(tmp_path: Path) -> None:
    out = run(tmp_path, rings(), STAGES).path
    journal = Journal.open(out / "run" / "journal.jsonl")
    fingerprint = next(iter(journal.passes))
    journal.append("failed", **{"pass": fingerprint, "unit": 3, "core": "0:13,32:41,64:67", "error": "a NaN <here>"})
    journal.close()
    page = read(Result(out))
    assert "1 block failed and was set aside" in page.text and "scan 3 0:13,32:41,64:67 1 a NaN <here>" in page.text
    assert page.text.index("failed and was set aside") < page.text.index("Checks")


def pixels(page: Page, alt: str) -> Any:
    data = page.images[alt].removeprefix("data:image/png;base64,")
    with Image.open(BytesIO(b64decode(data))) as image:
        return np.asarray(image)


def test_pictures_have_the_proportions_of_the_sample(result: Result) -> None:
    page = read(result)
    sizes = {name: pixels(page, f"{name} slice: gray").shape for name in ("xy", "xz", "zy")}
    depth, height, width = 13 * 0.3, 41 * 0.1, 67 * 0.1
    assert sizes["xy"][1] / sizes["xy"][0] == pytest.approx(width / height, rel=0.01)
    assert sizes["xz"][1] / sizes["xz"][0] == pytest.approx(width / depth, rel=0.01)
    assert sizes["zy"][1] / sizes["zy"][0] == pytest.approx(depth / height, rel=0.01)
    assert sizes["xz"][1] == sizes["xy"][1] and sizes["zy"][0] == sizes["xy"][0]
    assert sizes["xy"][1] + sizes["zy"][1] == pytest.approx(pictures.PICTURE_PX, abs=1)


def test_the_slices_show_voxels_of_the_planes_named(result: Result) -> None:
    page = read(result)
    z, y, x = (int(re.search(rf"{axis} = \S+ µm \(plane (\d+) of", page.text)[1]) for axis in "zyx")
    labels = result.labels[...]
    size = pixels(page, "xy slice: outlines").shape[0] / 41
    shown = pixels(page, "xy slice: outlines")[..., 3] > 0
    for p in range(1, 40):
        for q in range(1, 66):
            inside = shown[int(p * size) + 3 : int((p + 1) * size) - 2, int(q * size) + 3 : int((q + 1) * size) - 2]
            assert not inside.any()  # outlines run along voxel borders, two pixels wide
    centre = ((np.arange(41) + 0.5) * size).astype(int)
    gray = pixels(page, "xy slice: gray")[np.ix_(centre, ((np.arange(67) + 0.5) * size).astype(int))]
    assert np.array_equal(gray > 128, labels[z] > 0)
    counts = [(labels > 0).sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
    assert [c[p] for c, p in zip(counts, (z, y, x), strict=True)] == [c.max() for c in counts]
