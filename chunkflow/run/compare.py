"""Conditions of a batch against each other: from its summary to effects, a tidy table, and what a reader must know.

    summary.csv -> values of files -> means of replicates -> effects, tests, corrections    (analysis.comparison)

A file's time points are averaged. Files that failed are left out and said so. Nothing is left out for being unusual:
that is the user's to decide (`without`), and it is then named.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chunkflow.analysis import comparison
from chunkflow.analysis.comparison import Correction, Effect, Interval, Test
from chunkflow.analysis.samples import Sample
from chunkflow.errors import UsageError, nearest
from chunkflow.run.batch_samples import samples_of
from chunkflow.run.batch_summary import NOT_MEASURED, read_summary
from chunkflow.storage.tables import write_csv

FOLDER = "comparison"
NAMED = 5
"""Files without a result that are named."""
USUAL = (
    "objects",
    "volume_um3",
    "length_um",
    "mean_diameter_um",
    "loops",
    "junctions",
    "object_volume_median_um3",
    "object_sphericity_median",
    "object_intensity_mean_median",
    "branch_length_median_um",
)
"""Measures that are compared where none is named, those of them that the batch has."""
CONTROLS = ("control", "ctrl", "wt", "wildtype", "wild type", "untreated", "vehicle", "dmso", "mock")
"""Names of conditions that are taken for the control where none is named."""
WORDS = {"um": "µm", "um2": "µm²", "um3": "µm³"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What is asked of a batch.

    measures : columns of summary.csv; none are the usual ones
    control : condition that the others are compared with
    test : "permutation" of replicates' labels, or a "mixed" model of files; "none" leaves the intervals alone
    correction : of p values over all measures and conditions: "bh", "holm" or "none"
    paired : replicates of one name in both conditions are pairs
    confidence : of intervals
    without : files left out, as they stand in the summary
    """

    measures: tuple[str, ...] = ()
    control: str | None = None
    test: Literal["none", "permutation", "mixed"] = "none"
    correction: Correction = "bh"
    paired: bool = False
    confidence: float = 0.95
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.paired and self.test == "mixed":
            raise UsageError("a mixed model of pairs is not made", "Use test permutation, which swaps within pairs")
        if not 0.5 <= self.confidence < 1:
            raise UsageError(f"confidence {self.confidence} is none", "Use 0.95, or another from 0.5 to below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was found.

    path : OUT/comparison; batch : OUT
    conditions : in order, the control first
    tidy : a row per file and measure: file, condition, replicate, measure, unit, value
    effects : a row per measure and condition
    """

    path: Path
    batch: Path
    questions: Questions
    conditions: tuple[str, ...]
    tidy: pd.DataFrame
    effects: pd.DataFrame
    warnings: tuple[str, ...]

    @property
    def measures(self) -> list[str]:
        """In order."""
        return list(dict.fromkeys(self.tidy["measure"]))


def compare(
    output: str | Path,
    questions: Questions = Questions(),
    *,
    samples: str | Path | None = None,
    conditions: str | None = None,
) -> Comparison:
    """Compare the conditions of a batch; writes comparison.csv and tidy.csv into OUT/comparison.

    Parameters
    ----------
    output : of a batch.
    samples, conditions : as for the batch, instead of what its summary says.

    Raises
    ------
    UsageError : there are not two conditions, or no such measure or control.
    """
    out = Path(output)
    files, warnings = _files(read_summary(out), questions, samples, conditions)
    names = _ordered(files, questions.control)
    measures = _measures(files, questions.measures)
    files["value_of"] = files["condition"] + "\n" + files["replicate"]
    rows = [
        found
        for measure in measures
        for name in names[1:]
        if (found := _row(files, measure, names[0], name, questions, warnings)) is not None
    ]
    effects = pd.DataFrame(rows)
    if questions.test != "none" and len(effects):
        effects["p_corrected"] = comparison.corrected(effects["p"].tolist(), questions.correction)
        effects["correction"] = questions.correction
        warnings += _least_warning(effects)
    if questions.control is None:
        warnings.append(f"the control is {names[0]}; name another with --control")
    tidy = _tidy(files, measures)
    folder = out / FOLDER
    write_csv(folder / "comparison.csv", effects)
    write_csv(folder / "tidy.csv", tidy)
    return Comparison(
        path=folder,
        batch=out,
        questions=questions,
        conditions=names,
        tidy=tidy,
        effects=effects,
        warnings=tuple(warnings),
    )


def unit_of(measure: str) -> str:
    """Unit of a measure, as people write it."""
    return WORDS.get(measure.rpartition("_")[2], "")


def words_of(measure: str) -> str:
    """A measure in words, without its unit: `object_volume_median_um3` is "object volume median"."""
    totals = {"length_um": "total length", "volume_um3": "total volume"}
    words, _, last = measure.rpartition("_")
    return totals.get(measure) or (words if last in WORDS else measure).replace("_", " ")


def _files(
    table: pd.DataFrame, questions: Questions, samples: str | Path | None, conditions: str | None
) -> tuple[pd.DataFrame, list[str]]:
    """A row per file that has a result and a condition, time points averaged; and what to know of the others."""
    warnings: list[str] = []
    for file in questions.without:
        if file not in set(table["file"]) | set(table["result"]):
            raise UsageError(f"{file} is no file of the batch", nearest(file, table["file"]))
        warnings.append(f"left out as asked: {file}")
    table = table[~(table["file"].isin(questions.without) | table["result"].isin(questions.without))]
    bad = sorted(set(table.loc[table["status"] != "done", "file"]))
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        warnings.append(f"left out, since there is no result: {', '.join(bad[:NAMED])}{more}")
    table = table[table["status"] == "done"].copy()
    if not len(table):
        raise UsageError("no file of the batch has a result", "See the column error of its summary.csv")
    if samples is not None or conditions is not None:
        warnings += _resample(table, samples, conditions)
    unnamed = int((table["condition"] == "").sum())
    if unnamed:
        warnings.append(f"left out, since they have no condition: {unnamed} rows")
    table = table[table["condition"] != ""]
    keys = ["file", "condition", "replicate"]
    numbers = [name for name in table.columns if pd.api.types.is_numeric_dtype(table[name]) and name != "t"]
    if "t" in table and table["t"].nunique() > 1:
        warnings.append("the time points of a file are averaged")
    files = table.groupby([*keys, *([] if "t" in table else ["result"])], sort=False)[numbers].mean().reset_index()
    _name_replicates(files, warnings)
    return files, warnings


def _resample(table: pd.DataFrame, samples: str | Path | None, conditions: str | None) -> list[str]:
    """Give a table other conditions and replicates."""
    found, warnings = samples_of(list(dict.fromkeys(table["file"])), samples, conditions)
    table["condition"] = [found.get(file, Sample()).condition for file in table["file"]]
    table["replicate"] = [found.get(file, Sample()).replicate for file in table["file"]]
    return warnings


def _name_replicates(files: pd.DataFrame, warnings: list[str]) -> None:
    """Every file is a replicate where none is named; some named and some not is refused."""
    empty = files["replicate"] == ""
    if empty.all():
        files["replicate"] = files["file"]
        warnings.append(
            "no replicates are named, so every file counts as one. If several come from one animal, dish or day, the "
            "intervals are too short: name replicates in samples.csv or --conditions"
        )
    elif empty.any():
        raise UsageError(
            f"{files.loc[empty, 'file'].iloc[0]} has no replicate, and others have", "Name it in samples.csv too"
        )


def _ordered(files: pd.DataFrame, control: str | None) -> tuple[str, ...]:
    """Conditions, the control first."""
    names = sorted(files["condition"].unique())
    if len(names) < 2:
        has = f"all of them {names[0]}" if names else "none of them with a condition"
        count = f"{len(files)} files" if len(files) else "files"
        raise UsageError(
            f"{count}, {has}: there is nothing to compare",
            "Name conditions with --samples samples.csv (file,condition,replicate) or --conditions PATTERN",
        )
    if control is not None and control not in names:
        raise UsageError(f"control {control!r} is no condition", nearest(control, names))
    first = control or next((name for name in names if name.lower() in CONTROLS), names[0])
    return first, *[name for name in names if name != first]


def _measures(files: pd.DataFrame, named: Sequence[str]) -> list[str]:
    known = [
        str(name)
        for name in files.columns
        if pd.api.types.is_numeric_dtype(files[name]) and name not in NOT_MEASURED and files[name].notna().any()
    ]
    for name in named:
        if name not in known:
            raise UsageError(f"{name!r} is no measure of the batch", nearest(name, known))
    found = list(named) or [name for name in USUAL if name in known and files[name].any()]
    if not found:
        raise UsageError("the batch measured nothing that is usually compared", f"Name some of {', '.join(known)}")
    return found


def _row(
    files: pd.DataFrame, measure: str, control: str, condition: str, questions: Questions, warnings: list[str]
) -> dict[str, Any] | None:
    """Effect and test of one measure between two conditions."""
    groups = [files[files["condition"] == name] for name in (control, condition)]
    (a, names_a), (b, names_b) = (
        comparison.replicate_means(group[measure].to_numpy(np.float64), group["replicate"].tolist()) for group in groups
    )
    if questions.paired:
        both = sorted(set(names_a) & set(names_b))
        single = sorted(set(names_a) ^ set(names_b))
        if single:
            warnings.append(f"{measure}: left out, since they have no partner: {', '.join(single)}")
        a, b = (np.array([v[n.index(name)] for name in both]) for v, n in ((a, names_a), (b, names_b)))
    if not (len(a) and len(b)):
        warnings.append(f"{measure} is missing in {control if not len(a) else condition}")
        return None
    seed = zlib.crc32(f"{measure}|{condition}|{control}".encode())
    make = comparison.paired_effect if questions.paired else comparison.effect
    found: Effect = make(a, b, confidence=questions.confidence, seed=seed)
    counts = [int(group[measure].notna().sum()) for group in groups]
    row = _effect_columns(measure, condition, control, found, counts, questions)
    if questions.test == "permutation":
        test = comparison.paired_permutation_test if questions.paired else comparison.permutation_test
        row |= _test_columns(test(a, b, seed=seed))
    elif questions.test == "mixed":
        row |= _mixed_columns(pd.concat(groups), measure, condition)
    return row


def _effect_columns(
    measure: str, condition: str, control: str, found: Effect, counts: Sequence[int], questions: Questions
) -> dict[str, Any]:
    return {
        "measure": measure,
        "unit": unit_of(measure),
        "condition": condition,
        "control": control,
        "n_condition": found.n_condition,
        "n_control": found.n_control,
        "files_condition": counts[1],
        "files_control": counts[0],
        "mean_condition": found.condition,
        "mean_control": found.control,
        **_interval("difference", "", found.difference),
        **_interval("ratio", "ratio_", found.ratio),
        **_interval("hedges_g", "hedges_g_", found.hedges_g),
        "interval": found.interval,
        "confidence": questions.confidence,
    }


def _interval(name: str, prefix: str, found: Interval) -> dict[str, float]:
    return {name: found.value, f"{prefix}low": found.low, f"{prefix}high": found.high}


def _test_columns(found: Test) -> dict[str, Any]:
    return {"test": found.method, "p": found.p, "p_least": found.least}


def _mixed_columns(files: pd.DataFrame, measure: str, condition: str) -> dict[str, Any]:
    """Difference, interval and p of the mixed model of files."""
    known = files[files[measure].notna()]
    groups = known["value_of"].tolist()
    if len(set(groups)) == len(groups):
        raise UsageError(
            "a mixed model needs several files per replicate, and there is one of each", "Use --test permutation"
        )
    values: NDArray[np.float64] = known[measure].to_numpy(np.float64)
    difference, test = comparison.mixed_model(values, (known["condition"] == condition).to_numpy(bool), groups)
    return {**_interval("mixed_difference", "mixed_", difference), **_test_columns(test)}


def _least_warning(effects: pd.DataFrame) -> list[str]:
    """Say so where no data could give a small p."""
    least = float(effects["p_least"].max())
    if least <= 0.05:
        return []
    return [f"so few replicates cannot give a p below {least:.3g}, whatever the data: look at the intervals"]


def _tidy(files: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """A row per file and measure."""
    keys = ["file", "condition", "replicate"]
    parts = [
        files[keys].assign(measure=measure, unit=unit_of(measure), value=files[measure].to_numpy(np.float64))
        for measure in measures
    ]
    return pd.concat(parts, ignore_index=True)
