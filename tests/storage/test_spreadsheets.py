"""CSV and Excel files read back by pandas: units in the headers, nothing rounded, nothing computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest

from chunkflow.storage import spreadsheets
from chunkflow.storage.spreadsheets import columns_of, header, table_names, write_csv, write_xlsx
from chunkflow.storage.tables import write_table

OBJECTS = {
    "object_id": np.array([1, 2, 2**60 + 1], np.uint64),
    "volume_um3": np.array([0.1 + 0.2, np.nan, 3e-9]),
    "bbox_z_min": np.array([0, 4, 5]),
    "name": np.array(["=1+1", "a,b", "\u00b5 \x07bell"]),
    "certified": np.array([True, False, True]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_table(tmp_path / "tables", "objects", OBJECTS)
    pairs = {
        "object_a": np.array([1, 1], np.uint64),
        "object_b": np.array([2, 5], np.uint64),
        "faces": np.array([3, 4]),
    }
    write_table(tmp_path / "tables", "contacts", pairs)
    return tmp_path / "tables"


@pytest.mark.parametrize(
    ("column", "shown"),
    [
        ("volume_um3", "volume (um^3)"),
        ("volume_vox", "volume (voxel)"),
        ("surface_um2", "surface (um^2)"),
        ("centroid_z_um", "centroid_z (um)"),
        ("z_um", "z (um)"),
        ("bbox_x_max", "bbox_x_max (voxel)"),
        ("bbox_x_max_um", "bbox_x_max (um)"),
        ("sphericity", "sphericity"),
        ("axis_major_z", "axis_major_z"),
        ("um", "um"),
    ],
)
def test_a_header_says_its_unit(column: str, shown: str) -> None:
    assert header(column) == shown


def test_csv_holds_every_value_as_it_is(folder: Path, tmp_path: Path) -> None:
    assert table_names(folder) == ["contacts", "objects"] and columns_of(folder, "objects") == list(OBJECTS)
    assert write_csv(tmp_path / "a.csv", folder, "objects") == 3
    table = pd.read_csv(tmp_path / "a.csv")
    assert list(table) == ["object_id", "volume (um^3)", "bbox_z_min (voxel)", "name", "certified"]
    assert table.object_id.tolist() == OBJECTS["object_id"].tolist()
    np.testing.assert_array_equal(table["volume (um^3)"], OBJECTS["volume_um3"])
    assert table.name.tolist() == OBJECTS["name"].tolist()
    assert table.certified.tolist() == [True, False, True]


def test_rows_of_some_objects_alone(folder: Path, tmp_path: Path) -> None:
    some = np.array([1, 2], np.uint64)
    assert write_csv(tmp_path / "a.csv", folder, "objects", some) == 2
    assert write_csv(tmp_path / "b.csv", folder, "contacts", some) == 1
    assert pd.read_csv(tmp_path / "b.csv").object_b.tolist() == [2]


def test_excel_has_a_sheet_for_each_table_and_one_for_the_columns(folder: Path, tmp_path: Path) -> None:
    counts = write_xlsx(tmp_path / "a.xlsx", folder, ["objects", "contacts"], explained={"faces": "voxel faces"})
    assert counts == {"objects": 3, "contacts": 2}
    sheets = pd.read_excel(tmp_path / "a.xlsx", sheet_name=None)
    assert list(sheets) == ["columns", "objects", "contacts"]
    about = sheets["columns"].set_index("name for programs")
    assert about.loc["volume_um3", "unit"] == "um^3" and about.loc["faces", "meaning"] == "voxel faces"
    objects = sheets["objects"]
    assert list(objects)[:3] == ["object_id", "volume (um^3)", "bbox_z_min (voxel)"]
    np.testing.assert_allclose(objects["volume (um^3)"], OBJECTS["volume_um3"], rtol=1e-15)  # 16 digits
    assert objects.object_id.tolist() == [1, 2, 2**60 + 1]
    cells = openpyxl.load_workbook(tmp_path / "a.xlsx")["objects"]["A"]
    assert [cell.data_type for cell in cells] == ["s", "n", "n", "s"]  # Excel has 53 bits for a number
    assert sheets["contacts"].faces.tolist() == [3, 4]


def test_text_is_never_computed(folder: Path, tmp_path: Path) -> None:
    write_xlsx(tmp_path / "a.xlsx", folder, ["objects"], explained={})
    sheet = openpyxl.load_workbook(tmp_path / "a.xlsx")["objects"]
    assert [(row[3].value, row[3].data_type) for row in sheet.iter_rows(min_row=2)] == [
        ("=1+1", "s"),
        ("a,b", "s"),
        ("\u00b5 bell", "s"),
    ]


def test_a_table_longer_than_a_sheet_goes_on_in_the_next(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spreadsheets, "SHEET_ROWS", 3)  # a header and two rows
    assert write_xlsx(tmp_path / "a.xlsx", folder, ["objects"], explained={}) == {"objects": 3}
    sheets = pd.read_excel(tmp_path / "a.xlsx", sheet_name=["objects", "objects 2"])
    assert [len(sheet) for sheet in sheets.values()] == [2, 1]
    assert list(sheets["objects 2"]) == list(sheets["objects"])
