"""Tables on disk: one Parquet file, and a CSV beside it while the table is short enough for a spreadsheet.

The bytes depend on the columns alone (and on the library versions), so two runs can be compared by their files. A NaN
is stored as a missing value, which every reader shows as empty. Tables may come in parts, of which one is held at a
time; a reader that filters skips the groups of rows it does not want.
A column says its unit at the end of its name (`_um`, `_um2`, `_um3`, `_vox`), and in Parquet in its metadata too, as
`unit`: um, um^2, um^3 or voxel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from chunkflow.errors import InputNotFoundError, UsageError
from chunkflow.storage.column_units import UNITS
from chunkflow.storage.files import atomic_path, local_copy, write_atomic
from chunkflow.storage.stores import Place, place_of

GROUP_ROWS = 2**15
"""Rows of a group in Parquet, however a table comes in parts: 20 MiB of a table of objects, and as much to encode."""

BATCH_ROWS = 2**15
"""Rows that are read together by what looks at all of them."""

MADE_BY = {"nodes": "skeleton", "branches": "skeleton", "seams": "apply"}
"""The stages that make tables; measure makes the others."""

CSV_ROWS = 10**6
"""From this many rows on no CSV is written: spreadsheets end there."""


def write_table(folder: str | Place, name: str, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write `folder/name.parquet`, and `folder/name.csv` below 10^6 rows.

    Parameters
    ----------
    columns : header (with its unit) -> (N,) values, all of one length: numbers, booleans or strings. An empty table
        keeps the types of its columns. A masked array has missing values where it is masked.

    Raises
    ------
    UsageError : if the lengths differ.
    DiskFullError : if no space is left.
    """
    write_table_parts(folder, name, [columns])


def write_table_parts(folder: str | Place, name: str, parts: Iterable[Mapping[str, NDArray[Any]]]) -> None:
    """`write_table` of rows that come in parts, at least one, all with the same columns."""
    path, csv = (place_of(folder) / f"{name}.{ending}" for ending in ("parquet", "csv"))
    with atomic_path(path) as partial:
        rows = _write_groups(partial, (_table(name, columns) for columns in parts))
    if rows >= CSV_ROWS:
        csv.unlink(missing_ok=True)  # of an earlier, shorter table
        return
    with atomic_path(csv) as partial, local_copy(path) as rows_of, pa.parquet.ParquetFile(rows_of) as file:
        options = pa.csv.WriteOptions(quoting_style="needed")
        with pa.csv.CSVWriter(partial, file.schema_arrow, write_options=options) as writer:
            for batch in file.iter_batches(GROUP_ROWS):
                writer.write_batch(batch)


def write_csv(path: str | Place, table: pd.DataFrame) -> None:
    """Write a table for people, whole or not at all; what is missing is an empty cell.

    Raises
    ------
    DiskFullError : if no space is left.
    """
    write_atomic(path, table.to_csv(index=False, lineterminator="\n").encode())


def _write_groups(path: Path, tables: Iterator[pa.Table]) -> int:
    """Write tables as groups of `GROUP_ROWS` rows; returns the rows."""
    waiting = next(tables)
    rows = int(waiting.num_rows)
    with pa.parquet.ParquetWriter(path, waiting.schema, compression="zstd") as writer:
        for table in tables:
            rows += table.num_rows
            waiting = pa.concat_tables([waiting, table])
            while waiting.num_rows >= GROUP_ROWS:
                writer.write_table(waiting.slice(0, GROUP_ROWS).combine_chunks(), GROUP_ROWS)
                waiting = waiting.slice(GROUP_ROWS)
        if waiting.num_rows or not rows:
            writer.write_table(waiting.combine_chunks(), GROUP_ROWS)
    return rows


def _table(name: str, columns: Mapping[str, NDArray[Any]]) -> pa.Table:
    lengths = {header: len(values) for header, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UsageError(f"columns of table {name!r} have different lengths ({lengths})", "Give one value per row")
    arrays = {header: _column(values) for header, values in columns.items()}
    return pa.table(arrays, pa.schema([_field(header, values) for header, values in arrays.items()]))


def read_table(folder: str | Place, name: str) -> pd.DataFrame:
    """The table that `write_table` wrote.

    Raises
    ------
    InputNotFoundError : if it is not there.
    """
    with local_copy(_existing(folder, name)) as path:
        return pd.read_parquet(path)


class StoredTable:
    """A table that was written, of which some rows and columns are in memory at a time.

    Raises
    ------
    InputNotFoundError : if it is not there.
    """

    def __init__(self, folder: str | Place, name: str) -> None:
        self._path = _existing(folder, name)
        with self._opened() as file:
            self._rows, self.columns = file.metadata.num_rows, tuple(file.schema_arrow.names)

    def __len__(self) -> int:
        return int(self._rows)

    def head(self, count: int) -> pd.DataFrame:
        """The first rows."""
        with self._opened() as file:
            batches = list(islice(file.iter_batches(max(1, count)), 1))
            rows: pd.DataFrame = pa.Table.from_batches(batches, file.schema_arrow).to_pandas()
        return rows

    def batches(self, *columns: str) -> Iterator[pd.DataFrame]:
        """Some columns, `BATCH_ROWS` rows at a time; at least once, which may be empty."""
        with self._opened() as file:
            schema = pa.schema([file.schema_arrow.field(name) for name in columns])
            if not len(self):
                yield schema.empty_table().to_pandas()
            for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
                yield batch.to_pandas()

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        with local_copy(self._path) as path, pa.parquet.ParquetFile(path) as file:
            yield file


def read_rows(
    folder: str | Place,
    name: str,
    *,
    objects: int | Collection[int] | NDArray[np.uint64] | None = None,
    box_um: NDArray[np.float64] | None = None,
) -> pd.DataFrame:
    """Rows of a table, of some objects by their `object_id` and inside a box ((z, y, x), (z, y, x)) of um.

    Groups of rows that hold none of them are not read.

    Raises
    ------
    InputNotFoundError : if the table is not there.
    UsageError : what is given as an object is no whole number from 0 on.
    """
    keep = pa.compute.scalar(True)
    if objects is not None:
        keep &= pa.compute.field("object_id").cast(pa.uint64()).isin(pa.array(_object_ids(objects), pa.uint64()))
    if box_um is not None:
        for axis, low, high in zip("zyx", *box_um.tolist(), strict=True):
            keep &= (pa.compute.field(f"{axis}_um") >= low) & (pa.compute.field(f"{axis}_um") <= high)
    with local_copy(_existing(folder, name)) as path:
        rows: pd.DataFrame = pa.parquet.read_table(path, filters=keep).to_pandas()
    return rows


def _object_ids(objects: int | Collection[int] | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Ids as a table has them, of one number or several, of Python or of numpy as a table's own cells are."""
    if isinstance(objects, np.ndarray) and objects.dtype == np.uint64:
        return np.atleast_1d(objects)
    try:
        if isinstance(objects, bool):
            raise TypeError
        given = [objects] if isinstance(objects, int | np.integer) else objects
        return np.array([index(number) for number in given], np.uint64)
    except (TypeError, OverflowError) as error:
        raise UsageError(f"{objects!r} is no id of an object, nor several", "Give values of object_id") from error


def _existing(folder: str | Place, name: str) -> Place:
    path = place_of(folder) / f"{name}.parquet"
    if not path.is_file():
        stage = MADE_BY.get(name, "measure")
        raise InputNotFoundError(
            f"{path} does not exist", f"Add the stage {stage}, if the run is complete: chunkflow status OUT"
        )
    return path


def _field(header: str, values: pa.Array) -> pa.Field:
    unit = UNITS.get(header.rsplit("_", 1)[-1])
    if header.startswith("bbox_") and unit is None:
        unit = "voxel"
    return pa.field(header, values.type, metadata=None if unit is None else {"unit": unit})


def _column(values: NDArray[Any]) -> pa.Array:
    if values.dtype.kind in "OUT":
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if isinstance(values, np.ma.MaskedArray):
        missing = np.ma.getmaskarray(values)
        return pa.array(np.ma.getdata(values), mask=missing, from_pandas=True)
    return pa.array(values, from_pandas=True)
