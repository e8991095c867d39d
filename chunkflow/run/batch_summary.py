"""The table of a batch: a row per image and time point, failures included, as CSV and as rows.

    file, result, t, condition, replicate, status, error, outlier, objects, length_um, volume_um3, ..., seconds

What is known of every image stands first, measures follow in the order of the tables they come from, and a measure that
one image lacks is empty there. An outlier is a row whose count, threshold or brightness is far from the others'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chunkflow.analysis.comparison import outlying, relative_log
from chunkflow.errors import InputNotFoundError
from chunkflow.run.batch_inputs import Item
from chunkflow.run.batch_state import Outcome
from chunkflow.storage.tables import write_csv

FILE = "summary.csv"
FIRST = ("file", "result", "condition", "replicate", "t", "status", "error", "outlier")
LAST = ("incomplete", "warnings", "seconds", "kernel_seconds")
NOT_MEASURED = (*FIRST, *LAST, "saturated", "saturated_voxels")
"""Columns that are no measure of an image; nor are those that say how large it is."""
OUTLYING = {
    "objects": "objects",
    "threshold": "threshold",
    "object_intensity_mean_median": "brightness of objects",
    "image_max": "brightest voxel",
}
"""Columns that are looked at for outliers, on a logarithmic scale, and their names."""
OUTLIER_Z = 3.5
NAMED_WARNINGS = 3
"""Texts of warnings that are told of a batch; all are in its table."""
LEAST_GROUP = 5
"""Files of a condition from which on outliers are looked for within it; below that among all files."""


def summary_table(items: Sequence[Item], outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """One row per item, in their order; an item without an outcome is `not run`."""
    table = pd.DataFrame([_row(item, outcomes.get(item.name)) for item in items])
    table["outlier"] = outliers(table)
    if table["t"].isna().all():
        table = table.drop(columns="t")
    else:
        table["t"] = table["t"].astype("Int64")
    for name in _whole_numbers(outcomes.values()):
        table[name] = table[name].astype("Int64")  # or a row without them would make 2 objects 2.0
    columns = [name for name in FIRST if name in table]
    measures = [name for name in table.columns if name not in (*FIRST, *LAST)]
    return table[[*columns, *measures, *[name for name in LAST if name in table]]]


def _whole_numbers(outcomes: Iterable[Outcome]) -> set[str]:
    """Names of measures that are whole in every row that has them."""
    found = [measure for outcome in outcomes for measure in outcome.row.items()]
    return {name for name, value in found if type(value) is int} - {n for n, value in found if type(value) is not int}


def _row(item: Item, outcome: Outcome | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "file": item.file,
        "result": item.name,
        "condition": item.sample.condition,
        "replicate": item.sample.replicate,
        "t": item.time,
        "status": "not run" if outcome is None else outcome.status,
        "error": "" if outcome is None else outcome.error,
    }
    if outcome is None:
        return row
    spent = {"seconds": round(outcome.seconds, 3), "kernel_seconds": round(outcome.kernel_seconds, 3)}
    return row | dict(outcome.row) | spent


def outliers(table: pd.DataFrame) -> list[str]:
    """What is odd about each row, "" for most: `objects 3 (median 41)`."""
    said: list[list[str]] = [[] for _ in range(len(table))]
    sizes = table.groupby("condition")["condition"].transform("size")
    groups = table["condition"].where(sizes >= LEAST_GROUP, "")
    for column, words in OUTLYING.items():
        if column not in table:
            continue
        values = table[column].to_numpy(np.float64)
        for group in groups.unique():
            here = np.flatnonzero(groups == group)
            peers = here if group else np.arange(len(table))
            scores = outlying(relative_log(values[peers]))
            centre = np.nanmedian(values[peers]) if np.isfinite(values[peers]).any() else np.nan
            for place, z in zip(peers, scores, strict=True):
                if abs(z) > OUTLIER_Z and place in here:
                    said[place].append(f"{words} {values[place]:.4g} (median {centre:.4g})")
    return ["; ".join(words) for words in said]


def common_warnings(table: pd.DataFrame) -> list[str]:
    """What most images were warned of, and how many: `of 12 of 40 images: ...`."""
    if "warnings" not in table:
        return []
    texts = table["warnings"].dropna()
    counts = texts[texts != ""].value_counts().head(NAMED_WARNINGS)
    return [f"of {count} of {len(table)} images: {text}" for text, count in counts.items()]


def write_summary(output: Path, table: pd.DataFrame) -> Path:
    """Write OUT/summary.csv and return its path."""
    path = output / FILE
    write_csv(path, table)
    return path


def read_summary(output: Path) -> pd.DataFrame:
    """The table in the folder of a batch; names of files, conditions and replicates are text.

    Raises
    ------
    InputNotFoundError : there is none.
    """
    path = output / FILE
    if not path.is_file():
        raise InputNotFoundError(
            f"{path} does not exist", "Give the output of chunkflow run with several files: OUT of -o OUT"
        )
    texts = {name: str for name in ("file", "result", "condition", "replicate", "status", "error", "outlier")}
    table = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""])  # NA and null are names as well
    for name in texts:
        table[name] = table[name].fillna("") if name in table else ""
    return table
