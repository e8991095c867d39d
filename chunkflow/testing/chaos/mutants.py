"""The code with one promise broken at a time, and the case that must notice.

A mutant is a patch that is applied in a process of its own, where the case then runs. A case that passes on a mutant
shows nothing about the promise.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


def loose(module: Any) -> Any:
    """A module or class, to be changed."""
    return module


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """patch : breaks the code of this process; case : the part of the name of the case, of that promise, that fails"""

    promise: str
    name: str
    patch: Callable[[], None]
    case: str


def _blocks_overlap() -> None:
    from chunkflow.geometry.box import Box
    from chunkflow.geometry.grid import Grid

    core_of = Grid.core_of

    def wider(self: Grid, index: int) -> Box:
        return core_of(self, index).grow((0, 0, 1)).clip(Box.of_shape(self.shape))

    loose(Grid).core_of = wider


def _attempts_add_up() -> None:
    from chunkflow.run import worker

    write = loose(worker).write_record

    def appending(path: Any, arrays: Any) -> int:
        return int(write(path, {**arrays, "tries": [path.exists()]}))

    loose(worker).write_record = appending


def _journal_keeps_a_torn_tail() -> None:
    from chunkflow.run.journal import Journal

    read = loose(Journal).open.__func__

    def opened(kind: type[Journal], path: Path) -> Journal:
        content = path.read_bytes() if path.is_file() else b""
        journal: Journal = read(kind, path)
        path.write_bytes(content)
        return journal

    loose(Journal).open = classmethod(opened)


def _sizes_are_not_looked_at() -> None:
    from chunkflow.run import digests

    loose(digests).block_is_intact = lambda *_: True
    loose(digests).merge_is_intact = lambda *_: True
    loose(digests).holds_its_bytes = lambda *_: True


def _digests_are_not_looked_at() -> None:
    from chunkflow.run import digests

    loose(digests).holds_its_bytes = lambda *_: True


def _readers_of_lost_files_stay() -> None:
    from chunkflow.run import outstanding

    loose(outstanding)._stale = lambda *_: set()


def _records_have_no_name() -> None:
    from chunkflow.storage import records

    loose(records).place_name = lambda path: ""


def _border_files_are_merged() -> None:
    from chunkflow.storage.volume import Volume

    loose(Volume)._remove_files = lambda self, box, **_: None


def _silence_is_success() -> None:
    from chunkflow.run import driver, visit

    def finish_all(run: Any, p: Any) -> None:
        state = run.journal.state(run.fingerprint(p.name))
        job = loose(visit).job_of(run, p)
        visit._run_units(run, p, job, [u for u in range(p.units) if u not in state.done], {})
        run.journal.append("finished", **{"pass": run.fingerprint(p.name), "name": p.name})

    loose(driver).run_pass = finish_all
    loose(driver)._audit = lambda run: None


def _innocents_are_blamed() -> None:
    from chunkflow.run import visit

    set_aside = visit._set_aside

    def with_neighbours(run: Any, p: Any, failures: Any) -> None:
        unit, failure = min(failures.items())
        set_aside(run, p, {**failures, (unit + 1) % p.units: failure})

    loose(visit)._set_aside = with_neighbours


def _holes_are_taken_over() -> None:
    from chunkflow.run import outstanding

    loose(outstanding)._refused_units = lambda *_: ()


def _nobody_locks() -> None:
    from chunkflow.run import lock

    loose(lock).fcntl = type("NoLock", (), {"LOCK_EX": 0, "LOCK_NB": 0, "LOCK_SH": 0, "LOCK_UN": 0, "flock": print})


def _parameters_do_not_count() -> None:
    from chunkflow.plan import fingerprint

    canonical = fingerprint.canonical

    def forgetful(value: Any) -> Any:
        found = canonical(value)
        return {**found, "min_voxels": 0} if isinstance(found, dict) and "min_voxels" in found else found

    loose(fingerprint).canonical = forgetful


def _kinds_are_alike() -> None:
    from chunkflow.run import outstanding

    refused = outstanding._refused_units
    loose(outstanding)._refused_units = lambda places, journal, p, accepted: refused(
        places, journal, p, replace(accepted, mixed=True)
    )


def _nothing_is_checked_before() -> None:
    from chunkflow.run import driver

    loose(driver).check_admission = lambda *_, **__: None


def _full_disks_are_tried_again() -> None:
    from chunkflow.run import visit

    loose(visit).DiskFullError = type("Other", (Exception,), {})
    loose(visit).errno = type("NoErrno", (), {"ENOSPC": -1, "EDQUOT": -1})


def _merges_take_what_comes() -> None:
    from chunkflow.run import worker

    records = worker._records

    def reversed_for_merges(job: Any) -> Any:
        found = records(job)
        return found if job.merge is None else {name: list(found[name])[::-1] for name in found}

    loose(worker)._records = reversed_for_merges


def _yaml_is_loaded_whole() -> None:
    import yaml

    loose(yaml).safe_load = yaml.unsafe_load
    loose(yaml).SafeLoader = yaml.UnsafeLoader


def _links_are_followed() -> None:
    from chunkflow.run import driver, temporaries

    loose(driver).check_admission = lambda *_, **__: None
    loose(temporaries).is_pass_key = lambda name: True


def _lines_are_taken_as_they_are() -> None:
    from chunkflow.run import journal

    loose(journal)._check_types = lambda event: None
    loose(journal).Journal._apply_read = journal.Journal._apply


MUTANTS = (
    Mutant(promise="P1", name="blocks overlap", patch=_blocks_overlap, case="200 random"),
    Mutant(promise="P1", name="a second attempt leaves other bytes", patch=_attempts_add_up, case="shuffled, seed 0"),
    Mutant(promise="P2", name="the journal keeps a torn tail", patch=_journal_keeps_a_torn_tail, case="12 bytes"),
    Mutant(promise="P2", name="sizes are not looked at", patch=_sizes_are_not_looked_at, case="12 bytes"),
    Mutant(promise="P3", name="digests are not looked at", patch=_digests_are_not_looked_at, case="flip labels of"),
    Mutant(
        promise="P3",
        name="who read a lost file stays",
        patch=_readers_of_lost_files_stay,
        case="delete provisional labels during",
    ),
    Mutant(promise="P3", name="records do not know their name", patch=_records_have_no_name, case="swap seam records"),
    Mutant(promise="P3", name="files at the border are merged", patch=_border_files_are_merged, case="swap image of"),
    Mutant(promise="P4", name="silence is success, and nobody audits", patch=_silence_is_success, case="never answers"),
    Mutant(promise="P5", name="innocents are blamed", patch=_innocents_are_blamed, case="raise on serial"),
    Mutant(promise="P5", name="holes are taken over unasked", patch=_holes_are_taken_over, case="raise, holes"),
    Mutant(promise="P6", name="nobody locks", patch=_nobody_locks, case="beside a stopped"),
    Mutant(promise="P7", name="a parameter does not count", patch=_parameters_do_not_count, case="label.min_voxels"),
    Mutant(promise="P7", name="kinds are alike", patch=_kinds_are_alike, case="not mixed again"),
    Mutant(promise="P8", name="nothing is checked before", patch=_nothing_is_checked_before, case="inside the input"),
    Mutant(promise="P9", name="full disks are tried again", patch=_full_disks_are_tried_again, case="record 7"),
    Mutant(promise="P12", name="merges take what comes", patch=_merges_take_what_comes, case="seed 0"),
    Mutant(promise="P13", name="yaml is loaded whole", patch=_yaml_is_loaded_whole, case="python tag"),
    Mutant(promise="P13", name="links are followed", patch=_links_are_followed, case="links"),
    Mutant(promise="P13", name="lines are taken as they are", patch=_lines_are_taken_as_they_are, case="journals"),
)

SCRIPT = """
import logging, sys
if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    from chunkflow.testing.chaos.mutants import run_mutant
    sys.exit(run_mutant(sys.argv[1]))
"""
NOTICED = 17


def run_mutant(name: str) -> int:
    """Break this process, run the case, and say with the exit code whether it noticed."""
    from chunkflow.testing.chaos import world
    from chunkflow.testing.chaos.cases import all_cases
    from chunkflow.testing.chaos.matrix import run_case

    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    case = next(case for case in all_cases() if case.promise == mutant.promise and mutant.case in case.name)
    for long in (False, True):
        world.clean_hash(long)  # of the code as it is
    mutant.patch()
    try:
        run_case(case)
    except Exception:  # whatever a broken promise leads to
        return NOTICED
    return 0


def survives(mutant: Mutant) -> bool:
    """Whether its case passes on a mutant.

    Raises
    ------
    RuntimeError : the process ended otherwise than by passing or noticing.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, mutant.name], capture_output=True, text=True, check=False, env=environment
    )
    if ran.returncode not in (0, NOTICED):
        raise RuntimeError(f"{mutant.name} ended with {ran.returncode}: {ran.stderr[-500:]}")
    return ran.returncode == 0
