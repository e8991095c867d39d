"""Tables for people: CSV and Excel whose headers say the unit, `volume (um^3)` where a program reads `volume_um3`.

Excel sheets end at 1,048,576 rows; a longer table goes on in a sheet of the same name with a number. Whole numbers that
Excel would round, above 2^53, are written as text. Rows are written as they are read, a group at a time.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
from numpy.typing import NDArray

from chunkflow.storage.column_units import UNITS
from chunkflow.storage.files import atomic_path, local_copy
from chunkflow.storage.stores import Place

SHEET_ROWS = 1_048_576
_SHEET_NAME = 31  # characters that Excel allows
_EXACT = 2**53
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_BATCH = 2**14
_ENDING = ".parquet"
_ABOUT = ("table", "column", "name for programs", "unit", "meaning")


def header(column: str) -> str:
    """The name of a column as people read it: its unit in parentheses, where it has one."""
    name, _, last = column.rpartition("_")
    if name and last in UNITS:
        return f"{name} ({UNITS[last]})"
    return f"{column} ({UNITS['vox']})" if column.startswith("bbox_") else column


def table_names(folder: Place) -> list[str]:
    """The tables of a folder, by name."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path.name.removesuffix(_ENDING) for path in found if path.name.endswith(_ENDING))


def columns_of(folder: Place, table: str) -> list[str]:
    """The columns of a table, as programs name them."""
    with local_copy(folder / f"{table}{_ENDING}") as path:
        names: list[str] = pa.parquet.read_schema(path).names
    return names


def write_csv(path: Path, folder: Place, table: str, objects: NDArray[np.uint64] | None = None) -> int:
    """Write one table, of all objects or of some, and return its rows. A missing value is an empty cell."""
    count = 0
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([header(column) for column in columns_of(folder, table)])
        for row in _rows(folder / f"{table}{_ENDING}", objects):
            writer.writerow(["" if value is None else value for value in row])
            count += 1
    return count


def write_xlsx(
    path: Path,
    folder: Place,
    tables: Sequence[str],
    *,
    explained: Mapping[str, str],
    objects: NDArray[np.uint64] | None = None,
) -> dict[str, int]:
    """Write tables as sheets of one file, the meaning of every column first; the rows of each table.

    Parameters
    ----------
    explained : column of a table, as programs name it -> a sentence; those without one have none.
    """
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    _sheet(book, "columns", _ABOUT, _meanings(folder, tables, explained))
    counts = {}
    for table in tables:
        heads = [header(column) for column in columns_of(folder, table)]
        rows = _rows(folder / f"{table}{_ENDING}", objects)
        counts[table] = _sheets(book, table, heads, rows)
    with atomic_path(path) as partial:
        book.save(partial)
    return counts


def _meanings(folder: Place, tables: Sequence[str], explained: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    for table in tables:
        for column in columns_of(folder, table):
            shown = header(column)
            unit = shown[shown.rindex("(") + 1 : -1] if shown != column else ""
            yield table, shown, column, unit, explained.get(column, "")


def _sheets(book: Any, table: str, heads: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> int:
    total, number = 0, 1
    while True:
        name = table if number == 1 else f"{table} {number}"
        count = _sheet(book, name, heads, islice(rows, SHEET_ROWS - 1))
        total += count
        if count < SHEET_ROWS - 1:
            return total
        number += 1


def _sheet(book: Any, name: str, heads: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> int:
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Font

    sheet = book.create_sheet(name[:_SHEET_NAME])
    sheet.freeze_panes = "A2"
    bold = Font(bold=True)
    top = []
    for head in heads:
        cell = WriteOnlyCell(sheet, head)
        cell.font = bold
        top.append(cell)
    for number, head in enumerate(heads):
        sheet.column_dimensions[_letters(number)].width = max(10, min(len(head) + 2, 60))
    sheet.append(top)
    count = 0
    for row in rows:
        sheet.append([_cell(sheet, value) for value in row])
        count += 1
    return count


def _letters(number: int) -> str:
    from openpyxl.utils import get_column_letter

    letters: str = get_column_letter(number + 1)
    return letters


def _cell(sheet: Any, value: Any) -> Any:
    """A value as Excel holds it: text never as a formula, no infinite numbers, no whole numbers that it would round."""
    from openpyxl.cell import WriteOnlyCell

    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, int) and abs(value) > _EXACT:
        value = str(value)
    if isinstance(value, str):
        cell = WriteOnlyCell(sheet, _CONTROL.sub("", value))
        cell.data_type = "s"  # or one that begins with = would be computed
        return cell
    return value


def _rows(place: Place, objects: Collection[int] | NDArray[np.uint64] | None) -> Iterator[tuple[Any, ...]]:
    """Rows of a table; of some objects, those that are theirs or between two of them. Tables without objects whole."""
    with local_copy(place) as path, pa.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        owners = [name for name in ("object_id", "object_a", "object_b") if name in names]
        wanted = None if objects is None else pa.array(np.asarray(objects, np.uint64), pa.uint64())
        for batch in file.iter_batches(_BATCH):
            table = pa.Table.from_batches([batch])
            if wanted is not None:
                for name in owners:
                    table = table.filter(pa.compute.is_in(table[name].cast(pa.uint64()), value_set=wanted))
            yield from zip(*(column.to_pylist() for column in table.columns), strict=True)
