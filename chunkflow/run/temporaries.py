"""Arrays that no result keeps: how long they stay, and how they go.

    scratch: keep    until `chunkflow clean OUT`: a changed threshold then finds the distances that did not change
    scratch: drop    each until the last pass that reads it is done: the disk holds what `plan` calls the peak

The journal is told before anything is deleted, so a kill in between leaves arrays that the next run deletes, never one
that is thought to be there. Records stay: they are small, and say that a pass need not run.
"""

from __future__ import annotations

import json
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from chunkflow.errors import InputNotFoundError
from chunkflow.plan.disk import last_readers
from chunkflow.plan.passes import Pass
from chunkflow.run.journal import Journal
from chunkflow.run.leftovers import sweep_probes
from chunkflow.run.lock import OutputLock
from chunkflow.run.ongoing import Run
from chunkflow.run.places import is_pass_key, pass_key, run_folder
from chunkflow.storage.files import remove_tree
from chunkflow.storage.stores import ObjectPath, Place, place_of


def drop_read(run: Run, p: Pass) -> None:
    """Delete the temporary arrays that no pass after this one reads."""
    last = last_readers(run.plan.passes, run.plan.arrays)
    for name in (name for name, reader in last.items() if reader == p.name):
        producer = run.plan.arrays[name].producer
        if name not in run.journal.state(run.fingerprint(producer)).dropped:
            run.journal.append("dropped", **{"pass": run.fingerprint(producer), "arrays": [name]})
        _remove(run.places.staged(name))


def drop_others(run: Run) -> None:
    """Delete what earlier settings left, at the end of a run."""
    current = {run.places.pass_key(p.name) for p in run.plan.passes}
    stale = set(run.journal.passes) - {run.fingerprint(p.name) for p in run.plan.passes}
    for fingerprint in sorted(stale):
        run.journal.append("reset", **{"pass": fingerprint})
    for kind in ("arrays", "records"):
        for folder in _folders(run.places.run / kind):
            if folder.name not in current and is_pass_key(folder.name):
                remove_tree(folder)


def clean(output: str | Path) -> int:
    """Delete the temporary arrays of a result; returns their bytes. A later run computes again what it needs of them.

    Those of other settings go too, of runs that ended before they could put them away, and what killed probes left.

    Raises
    ------
    InputNotFoundError : the folder holds no run.
    OutputInUseError : a run is writing it.
    """
    place = place_of(output)
    run = run_folder(place)
    try:
        stored = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputNotFoundError(f"{output} holds no run", "Give the output folder of chunkflow run") from error
    with OutputLock(run), closing(Journal.open(run / "journal.jsonl")) as journal:
        freed = sum(_drop_pass(run, journal, stored, planned) for planned in stored["plan"]["passes"])
        freed += _drop_stale(run, journal, stored)
    if isinstance(place, Path):
        sweep_probes(place.absolute().parent)
    return freed


def _drop_pass(run: Place, journal: Journal, stored: Any, planned: Any) -> int:
    kept = {array["name"] for array in stored["plan"]["arrays"] if array["kept"]}
    arrays = [name for name in planned["writes"] if name not in kept]
    if not arrays:
        return 0
    fingerprint = stored["fingerprints"][planned["name"]]
    if set(arrays) - journal.state(fingerprint).dropped:
        journal.append("dropped", **{"pass": fingerprint, "arrays": arrays})
    folders = [run / "arrays" / pass_key(planned["name"], fingerprint) / name for name in arrays]
    freed = sum(_bytes_in(folder) for folder in folders)
    for folder in folders:
        _remove(folder)
    return freed


def _drop_stale(run: Place, journal: Journal, stored: Any) -> int:
    """Delete the arrays of passes that are none of the last plan's; what is half-way to be published stays."""
    kept = {pass_key(name, fingerprint) for name, fingerprint in stored["fingerprints"].items()}
    moving = set((journal.publishing or {}).values())
    known = {fingerprint[:16]: fingerprint for fingerprint in journal.passes}
    freed = 0
    for folder in _folders(run / "arrays"):
        fingerprint = known.get(folder.name.rpartition("-")[2])
        if folder.name in kept or not is_pass_key(folder.name) or fingerprint in moving:
            continue
        arrays = sorted(array.name for array in _folders(folder))
        if fingerprint is not None and set(arrays) - journal.state(fingerprint).dropped:
            journal.append("dropped", **{"pass": fingerprint, "arrays": arrays})
        freed += _bytes_in(folder)
        remove_tree(folder)
    return freed


def _remove(array: Place) -> None:
    """Delete an array, and the folder of its pass with the last one."""
    remove_tree(array)
    if isinstance(array, Path):
        with suppress(OSError):
            array.parent.rmdir()


def _bytes_in(folder: Place) -> int:
    if isinstance(folder, ObjectPath):
        return sum(stamp.size for _, stamp in folder.walk())
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _folders(place: Place) -> list[Place]:
    return list(place.iterdir()) if place.is_dir() else []
