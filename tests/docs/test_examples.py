"""The examples find what is there, and the notebooks hold what the scripts say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("mitochondria", "nuclei", "neurites")
LARGEST = 300_000


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.thorough
def test_nuclei_that_touch_are_found_one_by_one(tmp_path: Path) -> None:
    nuclei = module(EXAMPLES / "nuclei.py")
    result, truth = nuclei.run(tmp_path)
    found = nuclei.scores(result, truth)
    assert len(result.contacts) >= 10
    assert found["found"] == found["true nuclei"]
    assert found["average_precision_50"] == 1
    assert found["adapted_rand"] < 0.05
    assert nuclei.picture(result).size == (768, 384)


@pytest.mark.thorough
def test_neurites_keep_their_ids_and_are_as_long_as_the_volume(tmp_path: Path) -> None:
    neurites = module(EXAMPLES / "neurites.py")
    result = neurites.run(tmp_path)
    drawn = neurites.draw_neurites()
    np.testing.assert_array_equal(result.labels[...], drawn)
    across = neurites.SHAPE[2] * neurites.VOXEL_UM[2]
    best = neurites.longest(result)
    assert best.length_um.between(0.8 * across, 1.3 * across).all()
    assert (best.partners > 0).all()


@pytest.mark.thorough
def test_a_drawn_stack_is_as_long_as_it_was_drawn(tmp_path: Path) -> None:
    """Ends stop about a radius short of the tip, and 31 of them are 6 um."""
    mitochondria = module(EXAMPLES / "mitochondria.py")
    result, true_um = mitochondria.drawn(tmp_path)
    assert mitochondria.summary(result, true_um)["ratio"] == pytest.approx(1, abs=0.12)
    assert result.objects.certified.all()


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_holds_what_the_script_says_and_was_run(name: str) -> None:
    pytest.importorskip("nbclient", reason="needs the extra docs")
    path = EXAMPLES / "notebooks" / f"{name}.ipynb"
    assert path.stat().st_size < LARGEST
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    made = module(EXAMPLES / "notebooks" / "make.py").cells_of(name)
    assert ["".join(cell["source"]) for cell in stored] == [cell["source"] for cell in made]
    code = [cell for cell in stored if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = [kind for cell in code for output in cell["outputs"] for kind in output.get("data", {})]
    assert "image/png" in kinds
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
