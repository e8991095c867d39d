"""Conditions and replicates of the files of a batch: from a table, or from their paths."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from chunkflow.analysis import samples as sampling
from chunkflow.analysis.samples import Sample
from chunkflow.errors import InputError, InputNotFoundError, UsageError
from chunkflow.run.batch_inputs import Item, natural

SAMPLES = "samples.csv"


def samples_of(
    files: Sequence[str], samples: str | Path | None, conditions: str | None
) -> tuple[dict[str, Sample], list[str]]:
    """The samples of files by a table or by a pattern of paths, and sentences on what did not match.

    Raises
    ------
    UsageError : both are given, or the table or the pattern says nothing.
    InputNotFoundError, InputError : the table is not there, or is no text.
    """
    if samples is not None and conditions is not None:
        raise UsageError(f"samples {samples} and conditions {conditions!r} are both given", "Keep one of them")
    if conditions is not None:
        return sampling.from_pattern(conditions, files)
    return ({}, []) if samples is None else sampling.from_table(_read(Path(samples)), files)


def sampled(
    items: Sequence[Item],
    sources: Sequence[str | Path],
    *,
    samples: str | Path | None = None,
    conditions: str | None = None,
) -> tuple[list[Item], list[str]]:
    """Items with their conditions and replicates, by default those of samples.csv beside the sources.

    Errors are those of `samples_of`.
    """
    beside = _samples_beside(sources) if samples is None and conditions is None else None
    files = sorted({item.file for item in items}, key=natural)
    found, warnings = samples_of(files, samples if beside is None else beside, conditions)
    if beside is not None:
        warnings.insert(0, f"conditions are those of {beside}")
    return [replace(item, sample=found.get(item.file, Sample())) for item in items], warnings


def _read(path: Path) -> list[dict[str, str]]:
    """Rows of a table of samples, from CSV with commas, semicolons or tabs.

    Raises
    ------
    InputNotFoundError, InputError : it is not there, or is no text.
    """
    if not path.is_file():
        raise InputNotFoundError(f"samples {path} does not exist", "Check the path")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"samples {path} cannot be read ({error})", "Save it as CSV in UTF-8") from error
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    rows = csv.DictReader(text.splitlines(), delimiter=delimiter)
    rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or []]
    return [{key: value or "" for key, value in row.items() if key} for row in rows if any(row.values())]


def _samples_beside(sources: Sequence[str | Path]) -> Path | None:
    """samples.csv in the folder that a batch was given, or beside its only pattern or file."""
    if len(sources) != 1:
        return None
    text = str(sources[0])
    fixed = text[: min((text.index(c) for c in "*?[" if c in text), default=len(text))]
    folder = Path(text) if Path(text).is_dir() else Path(fixed).parent if not fixed.endswith("/") else Path(fixed)
    path = folder / SAMPLES
    return path if path.is_file() else None
