import csv
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from chunkflow.errors import InputNotFoundError, UsageError
from chunkflow.storage import tables
from chunkflow.storage.tables import read_table, write_table

COLUMNS = {
    "object_id": np.array([1, 2**32 - 1, 7], np.uint32),
    "length_um": np.array([0.1, np.nan, 1e-17]),
    "radius_um": np.array([0.1, 2.5, -0.0], np.float32),
    "certified": np.array([True, False, True]),
    "kind": np.array(["end-end", 'a "b", c', "cycle"]),
}


def test_a_table_comes_back_with_its_types_and_values(tmp_path: Path) -> None:
    write_table(tmp_path, "objects", COLUMNS)
    table = read_table(tmp_path, "objects")
    assert list(table) == list(COLUMNS)
    for header, values in COLUMNS.items():
        if values.dtype.kind != "U":
            assert table[header].dtype == values.dtype
        np.testing.assert_array_equal(table[header].to_numpy(), values)


def test_the_csv_says_the_same_to_any_reader(tmp_path: Path) -> None:
    write_table(tmp_path, "objects", COLUMNS)
    by_pandas = pd.read_csv(tmp_path / "objects.csv")
    for header, values in COLUMNS.items():
        np.testing.assert_array_equal(by_pandas[header].to_numpy().astype(values.dtype), values)
    with (tmp_path / "objects.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == list(COLUMNS)
    assert rows[2][1] == ""  # NaN is an empty cell
    assert rows[2][4] == 'a "b", c'


def test_an_empty_table_keeps_its_types(tmp_path: Path) -> None:
    write_table(tmp_path, "none", {header: values[:0] for header, values in COLUMNS.items()})
    table = read_table(tmp_path, "none")
    assert len(table) == 0
    assert table["object_id"].dtype == np.uint32
    assert pd.api.types.is_string_dtype(table["kind"])
    assert (tmp_path / "none.csv").read_text().count("\n") == 1


def test_a_masked_integer_is_missing(tmp_path: Path) -> None:
    write_table(tmp_path, "t", {"n": np.ma.array([1, 2, 3], mask=[False, True, False])})
    assert read_table(tmp_path, "t")["n"].isna().tolist() == [False, True, False]


def test_equal_tables_are_equal_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_table(tmp_path / folder, "objects", COLUMNS)
    for suffix in ("csv", "parquet"):
        assert (tmp_path / f"a/objects.{suffix}").read_bytes() == (tmp_path / f"b/objects.{suffix}").read_bytes()
    assert len(list((tmp_path / "a").iterdir())) == 2


def test_a_long_table_has_no_csv_and_leaves_none_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path, "t", {"n": np.arange(3)})
    assert (tmp_path / "t.csv").exists()
    monkeypatch.setattr(tables, "CSV_ROWS", 4)
    write_table(tmp_path, "t", {"n": np.arange(4)})
    assert not (tmp_path / "t.csv").exists()
    assert len(read_table(tmp_path, "t")) == 4


def test_columns_of_different_lengths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"columns of table 't' have different lengths"):
        write_table(tmp_path, "t", {"a": np.arange(3), "b": np.arange(4)})


def test_a_table_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"objects.parquet does not exist. Add the stage measure"):
        read_table(tmp_path, "objects")


def test_units_are_in_the_metadata_of_columns(tmp_path: Path) -> None:
    names = {"length_um": "um", "area_um2": "um^2", "volume_um3": "um^3", "volume_vox": "voxel", "kind": None}
    write_table(tmp_path, "t", {name: np.arange(2) for name in [*names, "bbox_z_min", "bbox_z_min_um", "um"]})
    schema = pyarrow.parquet.read_schema(tmp_path / "t.parquet")
    for name, unit in {**names, "bbox_z_min": "voxel", "bbox_z_min_um": "um"}.items():
        assert schema.field(name).metadata == (None if unit is None else {b"unit": unit.encode()}), name


def test_rows_of_objects_and_of_a_box_are_read_whatever_their_ids(tmp_path: Path) -> None:
    ids = np.array([7, 7, 2**63 + 5, 2**64 - 1], np.uint64)
    place = {f"{axis}_um": np.array([0.0, 1.0, 2.0, 3.0]) for axis in "zyx"}
    tables.write_table(tmp_path, "t", {"object_id": ids, **place})
    assert tables.read_rows(tmp_path, "t", objects=7).z_um.tolist() == [0.0, 1.0]
    assert tables.read_rows(tmp_path, "t", objects=[2**63 + 5, 9]).z_um.tolist() == [2.0]
    box = np.array([(0.5, 0.5, 0.5), (3.5, 2.5, 3.5)])
    assert tables.read_rows(tmp_path, "t", box_um=box).object_id.tolist() == [7, 2**63 + 5]
    assert len(tables.read_rows(tmp_path, "t", objects=[])) == 0
    for cell in (ids[0], np.int64(7), ids[:1], {7}, read_table(tmp_path, "t").object_id[:1]):
        assert tables.read_rows(tmp_path, "t", objects=cell).z_um.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("given", [-1, [7, -1], [7.5], "7", np.array([-1])])
def test_what_is_no_id_of_an_object_is_refused(given: Any, tmp_path: Path) -> None:
    tables.write_table(tmp_path, "t", {"object_id": np.array([7], np.uint64)})
    with pytest.raises(UsageError, match="no id of an object"):
        tables.read_rows(tmp_path, "t", objects=given)


def test_parts_change_no_byte(tmp_path: Path) -> None:
    count = 2 * tables.GROUP_ROWS + 5
    columns = {"n": np.arange(count), "kind": np.where(np.arange(count) % 2, "odd", "even"), "x_um": np.ones(count)}
    tables.write_table(tmp_path / "whole", "t", columns)
    cuts = [0, 0, 10, tables.GROUP_ROWS + 3, count]
    parts = ({name: values[a:b] for name, values in columns.items()} for a, b in pairwise(cuts))
    tables.write_table_parts(tmp_path / "parts", "t", parts)
    for name in ("t.parquet", "t.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert pyarrow.parquet.ParquetFile(tmp_path / "parts" / "t.parquet").num_row_groups == 3
