"""The examples run, and the yeast mitochondria come out as long as MitoGraph says."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
NAMES = ("yeast_mito_01", "yeast_mito_03", "yeast_mito_05")


@pytest.fixture(scope="module")
def mitochondria() -> ModuleType:
    """`examples/mitochondria.py` as a module."""
    spec = importlib.util.spec_from_file_location("mitochondria", ROOT / "examples" / "mitochondria.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def needed(name: str) -> Path:
    path = DATA / f"{name}.tif"
    if not path.is_file():
        pytest.skip(f"{path.name} is missing from ../shared/data")
    return path


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mitochondria")


@pytest.mark.parametrize("name", NAMES)
def test_total_length_is_within_8_percent_of_mitographs(mitochondria: ModuleType, out: Path, name: str) -> None:
    row = mitochondria.summary(mitochondria.run_stack(needed(name), out), mitochondria.PUBLISHED_UM[name])
    assert row["ratio"] == pytest.approx(1, abs=0.08)


def test_every_object_is_certified_and_the_row_counts_what_the_tables_hold(mitochondria: ModuleType, out: Path) -> None:
    result = mitochondria.run_stack(needed("yeast_mito_03"), out)
    row = mitochondria.summary(result, 1.0)
    assert result.objects["certified"].all()
    assert (row["components"], row["loops"]) == (len(result.objects), result.objects["b1_graph"].sum())
    degree = result.nodes["degree"].to_numpy()
    assert (row["free_ends"], row["junctions"]) == ((degree == 1).sum(), (degree > 2).sum())
    assert row["volume_um3"] == pytest.approx(np.count_nonzero(result.labels[...]) * 0.056**3)


def test_one_table_lists_all_stacks(mitochondria: ModuleType, out: Path) -> None:
    for name in NAMES:
        needed(name)
    table = mitochondria.table(DATA, out)
    assert tuple(table.index) == NAMES
    assert not table.isna().any(axis=None)
