"""What must hold before a run may start: checked by `plan` and by `run`, before anything is written.

Whether the output is ours to write, whether the run would write what it reads, whether the input is still the one the
output was started with, and whether there is any space.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chunkflow.errors import DiskFullError, InputChangedError, UsageError
from chunkflow.plan.plan import Plan
from chunkflow.run.journal import forget_journal
from chunkflow.run.places import run_folder
from chunkflow.storage.files import remove_tree, write_atomic
from chunkflow.storage.identity import differences
from chunkflow.storage.stores import ObjectPath, Place, place_of
from chunkflow.storage.volume import Volume

RESERVE_BYTES = 64 * 2**20  # free space below which nothing is started: the journal must be able to say so

MOST_UNITS = 20_000_000  # blocks of a pass: the journal has a line for each, the driver some 500 bytes

RUN_FILES = (
    *("plan.json", "input.json", "journal.jsonl", "reserve", "lock", "clock", "epoch", "epoch.new", "log.jsonl"),
    *("arrays", "records", "verify.json"),
)
"""What a run keeps in its folder; a folder with anything else in it is somebody's own."""

OUTPUTS = ("image.ome.zarr", "probability.ome.zarr", "tables", "graph", "run")
"""Folders of an output that a run replaces."""


def check_admission(plan: Plan, *, overwrite: bool = False, restart: bool = False) -> None:
    """Refuse a run that may not start. Writes nothing.

    Raises
    ------
    UsageError : the output is a file, holds something else, or the run would write over its own input; or there are
        more blocks than a run keeps account of.
    InputChangedError : the input is not the one the output was started with, and this is no restart.
    DiskFullError : there is no space to start with.
    """
    if plan.largest_grid > MOST_UNITS:
        raise UsageError(
            f"{plan.largest_grid:,} blocks are more than a run keeps account of ({MOST_UNITS:,})", "Use a larger block"
        )
    _check_output(plan.output, overwrite)
    _check_not_its_input(plan)
    if not restart:
        _check_input(plan)
    _check_space(plan)


def remember_input(plan: Plan) -> None:
    """Store what the input is known by, for the runs that follow."""
    write_atomic(run_folder(plan.output) / "input.json", json.dumps(plan.input_identity).encode())


def forget_run(folder: Place) -> None:
    """Delete what an earlier run left in its folder, except the lock and the epoch that its workers check."""
    forget_journal(folder / "journal.jsonl")
    for name in set(RUN_FILES) - {"lock", "epoch", "journal.jsonl"}:
        path = folder / name
        remove_tree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _check_output(output: Place, overwrite: bool) -> None:
    if output.is_symlink() and not output.exists():
        raise UsageError(f"the output {output} is a link to nothing", "Create its target, or name another folder")
    if output.is_file() or (isinstance(output, Path) and output.exists() and not output.is_dir()):
        raise UsageError(f"the output {output} is a file", "Name a folder")
    if output.exists() and not overwrite and not _is_free_or_ours(output):
        raise UsageError(f"{output} holds something that is no run", "Choose another output, or add --overwrite")
    inside = [*OUTPUTS, "image.ome.zarr/labels", *(f"run/{name}" for name in RUN_FILES)]
    links = [name for name in inside if (output / name).is_symlink()]
    if links:  # a run replaces and deletes what is there, which may be anybody's
        raise UsageError(f"{links[0]} in the output {output} is a link", "Remove it: a run writes real folders alone")


def _is_free_or_ours(output: Place) -> bool:
    """Whether there is nothing, or a run; be it one that another driver just begins, whose first files come and go."""
    names = {entry.name for entry in output.iterdir()}
    folder = run_folder(output)
    if folder.name not in names or (isinstance(folder, Path) and not folder.is_dir()):
        return not names
    return all(entry.name in RUN_FILES or entry.name.endswith(".partial") for entry in folder.iterdir())


def _check_not_its_input(plan: Plan) -> None:
    output = plan.output.resolve()
    for volume in (plan.input, plan.mask, *plan.beside.arrays.values()):
        if not isinstance(volume, Volume):  # no mask, or a file, which may lie beside the output
            continue
        array = place_of(volume.path).resolve()
        image = array.parent
        replaced = [output / name for name in OUTPUTS]
        if output in (array, image) or image in output.parents:
            raise UsageError(f"the output {plan.output} lies inside the input {image}", "Choose an output outside it")
        if any(folder == image or folder in array.parents for folder in replaced):
            raise UsageError(f"the run would write over its input {image}", "Choose another output")


def _check_input(plan: Plan) -> None:
    path = run_folder(plan.output) / "input.json"
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return  # torn by a kill or a full disk: the fingerprints still tell one input from another
    changes = changes_of_input(before, plan.input_identity)
    if changes:
        raise InputChangedError(
            f"the input is not the one {plan.output} was started with: {'; '.join(changes)}",
            "Restore it, choose another output, or add --restart",
        )


def changes_of_input(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed between two identities of a plan's inputs, one plain sentence part each."""
    changes = [
        f"{name}: {change}"
        for name in ("image", "mask")
        if name in before and name in now
        for change in differences(before[name], now[name])
    ]
    if ("mask" in before) != ("mask" in now):
        changes.append("mask: given in one run, not in the other")
    return changes


def _check_space(plan: Plan) -> None:
    if isinstance(plan.output, ObjectPath):
        return  # stores do not say how much they hold
    output = plan.output.absolute()
    free = shutil.disk_usage(next(folder for folder in (output, *output.parents) if folder.exists())).free
    # Labels and masks compress a hundredfold; images hardly, and floats never to less than a tenth.
    floats = sum(a.nbytes for a in plan.arrays.values() if a.layout.dtype.startswith("float"))
    least = max(RESERVE_BYTES, floats // 10)
    if free < least:
        raise DiskFullError(
            f"{plan.output} has {free / 2**20:.0f} MiB free, the run needs at least {least / 2**20:.0f} MiB",
            "Free some space, or choose another output",
        )
