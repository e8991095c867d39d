"""All results below a folder: a facility's view. Looks into no result, and into no image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from chunkflow.errors import ChunkflowError, InputNotFoundError
from chunkflow.run.batch_status import is_batch_output
from chunkflow.run.places import run_folder
from chunkflow.run.status import Status, status


def is_result(folder: Path) -> bool:
    """Whether a folder is the output of a run, begun or done."""
    run = run_folder(folder)
    if not isinstance(run, Path) or is_batch_output(folder):
        return False
    return any((run / name).is_file() for name in ("plan.json", "journal.jsonl", "lock"))


def batches_below(folder: str | Path) -> Iterator[Path]:
    """Outputs of batches: the folder and those below, in order of their names; a batch lies in no other."""
    for name, below, _ in os.walk(folder):
        if is_batch_output(Path(name)):
            below.clear()
            yield Path(name)
        else:
            below[:] = [] if is_result(Path(name)) else _searched(below)


def _searched(names: list[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith(".") and not name.endswith(".zarr"))


def results_below(folder: str | Path) -> Iterator[Path]:
    """Results in a folder and in the folders below, in order of their names; those of batches are left out.

    Raises
    ------
    InputNotFoundError : there is no such folder.
    """
    if not Path(folder).is_dir():
        raise InputNotFoundError(f"{folder} is no folder", "Give a result of chunkflow run, or a folder of results")
    for name, below, _ in os.walk(folder):
        is_own = is_result(Path(name))
        if is_own:
            yield Path(name)
        below[:] = [] if is_own or is_batch_output(Path(name)) else _searched(below)


def statuses(folder: str | Path) -> list[Status]:
    """What each result below a folder holds; none where all that is there are batches. A damaged one hides no other.

    Raises
    ------
    InputNotFoundError : there is neither.
    """
    found = [_status_among_others(path) for path in results_below(folder)]
    if not found and next(batches_below(folder), None) is None:
        raise InputNotFoundError(f"{folder} holds no run", "Give the output folder of chunkflow run, or one above")
    return found


def _status_among_others(folder: Path) -> Status:
    try:
        return status(folder)
    except (ChunkflowError, OSError):  # of a journal or plan that is damaged or gone, or that may not be read
        return Status(folder, "unreadable", None, (), "")
