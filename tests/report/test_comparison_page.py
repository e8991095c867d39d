import json
import re
import shutil
import xml.etree.ElementTree as ET

import pandas as pd
import pytest

from chunkflow.errors import InputNotFoundError
from chunkflow.report.comparison import PALETTE, methods_of, plot, write_comparison
from chunkflow.run.compare import Questions, compare


@pytest.fixture
def study(tmp_path):
    rows = []
    for condition, level in (("ctrl", 10.0), ("drug <5 uM>", 16.0)):
        for day in range(3):
            for k in range(4):
                name = f"{condition[:4]}/{day}/{k}"
                facts = {"file": f"{name}.tif", "result": name, "condition": condition, "replicate": f"day{day}"}
                rows.append({**facts, "status": "done", "error": "", "outlier": "", "objects": level + day + k / 4})
    pd.DataFrame(rows).to_csv(tmp_path / "summary.csv", index=False)
    first = tmp_path / "ctrl" / "0" / "0" / "run"
    first.mkdir(parents=True)
    pipeline = {"input": {"kind": "image", "channel": None}, "stages": [{"label": {"connectivity": 26}}]}
    plan = {"input": {"voxel_um": [1, 1, 1]}, "output": {"voxel_um": [1, 1, 1]}, "facts": {}}
    content = {"chunkflow": "1", "python": "3", "kind": "cpu; numpy 2", "pipeline": pipeline, "plan": plan}
    (first / "plan.json").write_text(json.dumps(content))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "batch.json").write_text(json.dumps({"threshold": 7.5, "threshold_method": "li"}))
    return tmp_path


def test_a_plot_has_a_point_per_file_a_mark_per_replicate_and_the_interval(study):
    done = compare(study, Questions(test="permutation"))
    root = ET.fromstring(plot(done, "objects"))
    space = "{http://www.w3.org/2000/svg}"
    files = [c for c in root.iter(f"{space}circle") if c.get("r") == "2.4"]
    marks = [c for c in root.iter() if c.find(f"{space}title") is not None and c.tag != f"{space}text"]
    assert len(files) == 24
    assert len(marks) == 6
    texts = ["".join(t.itertext()) for t in root.iter(f"{space}text")]
    assert {"objects", "difference", "n = 3"} <= set(texts)
    assert any(text.startswith("p = ") for text in texts)


def test_replicates_differ_in_shape_as_well_as_in_colour(study):
    svg = plot(compare(study), "objects")
    drawn = re.findall(r"<(circle|polygon)[^>]*fill='(#\w+)' stroke='#fff'", svg)
    assert {color for _, color in drawn} == set(PALETTE[:3])
    assert len({(tag, color) for tag, color in drawn}) == 3


def test_values_stand_where_the_axis_says(study):
    svg = plot(compare(study), "objects")
    ticks = re.findall(
        r"<line x1='66' x2='[\d.]+' y1='([\d.]+)'[^>]*stroke='#e3e3e3'/><text [^>]*>([\d.]+)</text>", svg
    )
    (y0, v0), (y1, v1) = ((float(y), float(v)) for y, v in (ticks[0], ticks[-1]))
    where = {float(v): float(y) for y, v in re.findall(r"cy='([\d.]+)' r='5.2'[^>]*><title>day0: ([\d.]+)", svg)}
    for value, y in where.items():
        assert y == pytest.approx(y0 + (value - v0) / (v1 - v0) * (y1 - y0), abs=0.2)


def test_methods_are_those_of_the_first_result_that_is_there_and_none_is_said(study):
    found = compare(study)
    written = methods_of(found)
    later = study / "drug" / "1" / "2"
    later.parent.mkdir(parents=True)
    (study / "ctrl" / "0" / "0").rename(later)
    assert methods_of(found) == written
    shutil.rmtree(later)
    with pytest.raises(InputNotFoundError, match="no result of .* there any more.*Run the batch again"):
        methods_of(found)


def test_the_page_holds_effects_plots_and_methods_and_every_plot_is_a_file(study):
    page = write_comparison(compare(study, Questions(test="permutation"))).read_text()
    assert "drug &lt;5 uM&gt;" in page
    assert "<5 uM>" not in page
    assert "Welch" in page
    assert "Benjamini" in page
    ET.parse(study / "comparison" / "objects.svg")
    methods = (study / "comparison" / "methods.txt").read_text()
    assert "3 replicates, 12 images" in methods
    assert "for 1 tests" not in methods
