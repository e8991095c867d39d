"""Cases of files that are damaged: P3 in inputs, outputs, temporaries and records; P2 the journal cut anywhere."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from chunkflow.errors import ChunkflowError, IncompleteError, InputChangedError, IntegrityError
from chunkflow.run.journal import Journal
from chunkflow.run.status import status
from chunkflow.storage.omezarr import open_volume
from chunkflow.testing.chaos import faults, world
from chunkflow.testing.chaos.matrix import Case

Fault = Callable[[Path, Path], None]

BETWEEN = {  # what is damaged between an interrupted run and the next, and the pass before which it was interrupted
    "mask": ("run/arrays/*/mask", "relabel"),
    "provisional labels": ("run/arrays/label-*/provisional", "relabel"),
    "label records": ("run/records/label-*", "relabel"),
    "scan records": ("run/records/scan-*", "range"),
    "parts of a merge": ("run/records/label-merge-*/0*", "relabel"),
}
DURING = {  # what is damaged while a run goes on, and the pass at whose beginning
    "provisional labels": ("run/arrays/label-*/provisional", "relabel"),
    "label records": ("run/records/label-*/0*", "label-merge"),
    "seam records": ("run/records/seams-*", "label-merge"),
    "parts of a merge": ("run/records/label-merge-*/0*", "relabel"),
    "image": ("run/arrays/scan-*/image", "label"),
}
COMPLETE = {"image": "image.ome.zarr/0", "labels": "image.ome.zarr/labels/objects/0", "records": "run/records/label-*"}


def _cases() -> list[Case]:
    found = []
    for fault, name in product(faults.FAULTS, BETWEEN):
        run = partial(_between, *BETWEEN[name], fault)
        found.append(Case(promise="P3", name=f"{fault.__name__} {name} between run and resume", run=run))
    for fault, name in product(faults.FAULTS, DURING):
        run = partial(_during, *DURING[name], fault)
        found.append(Case(promise="P3", name=f"{fault.__name__} {name} during the run", run=run))
    for fault, name in product(faults.FAULTS, COMPLETE):
        run = partial(_complete, COMPLETE[name], fault)
        found.append(Case(promise="P3", name=f"{fault.__name__} {name} of a complete result", run=run))
    for fault in faults.FAULTS:
        for when, input_case in {"before": _input_before, "between": _input_between, "during": _input_during}.items():
            if not (fault is faults.swap and when == "before"):  # nobody can tell: it is another image
                found.append(
                    Case(promise="P3", name=f"{fault.__name__} input {when} runs", run=partial(input_case, fault))
                )
    found.append(Case(promise="P3", name="no answer to an unclean end: bytes without a newer time", run=_bit_rot))
    found.append(Case(promise="P2", name="journal cut at each of 3000 bytes, read", run=partial(_cut_and_read, 3000)))
    found.append(
        Case(promise="P2", name="journal cut at every byte, read", run=partial(_cut_and_read, 10**9), quick=False)
    )
    found.append(Case(promise="P2", name="journal cut at 12 bytes, resumed", run=partial(_cut_and_resume, 12)))
    found.append(
        Case(promise="P2", name="journal cut at 100 bytes, resumed", run=partial(_cut_and_resume, 100), quick=False)
    )
    return found


def _between(pattern: str, name: str, fault: Fault, folder: Path) -> int:
    plan = world.planned(world.short_pipeline(), world.source_in(folder), folder / "out")
    assert isinstance(world.run_or_error(plan, on_event=world.Interrupts(name)), KeyboardInterrupt)
    faults.after_a_tick(fault, *faults.two_files(folder / "out", pattern))
    assert status(folder / "out").state != "complete"
    world.check_ends_well(plan, world.clean_hash())
    return 1


def _during(pattern: str, name: str, fault: Fault, folder: Path) -> int:
    plan = world.planned(world.short_pipeline(), world.source_in(folder), folder / "out")
    listener = world.At(name, lambda: faults.after_a_tick(fault, *faults.two_files(folder / "out", pattern)))
    error = world.run_or_error(plan, on_event=listener)
    assert listener.fired
    assert error is not None or world.tree_hash(folder / "out") == world.clean_hash(), "silently wrong"
    assert not isinstance(error, IncompleteError), f"whoever read the damage was blamed: {error}"
    world.check_ends_well(plan, world.clean_hash())
    return 1


def _complete(pattern: str, fault: Fault, folder: Path) -> int:
    plan = world.planned(world.short_pipeline(), world.source_in(folder), folder / "out")
    world.run(plan)
    faults.after_a_tick(fault, *faults.two_files(folder / "out", pattern))
    assert status(folder / "out").state == "damaged", f"status says {status(folder / 'out').state}"
    world.check_ends_well(plan, world.clean_hash(), runs=1)
    return 1


def _chunked_input(folder: Path) -> Path:
    """The volume in many files, with checksums as we write them."""
    from chunkflow.geometry.scale import Scale
    from chunkflow.storage.omezarr_write import write_image_group
    from chunkflow.storage.volume import create_array, layout_for_core

    scale = Scale(world.VOXEL_UM)
    path = folder / "in.ome.zarr"
    write_image_group(path, name="in", levels={"0": scale})
    layout = layout_for_core((16, 16, 16), world.SHAPE, "uint16", 3, chunk=(16, 16, 16), shard=(16, 16, 16))
    create_array(path / "0", layout, scale).array[...] = world.image()
    return path


def _input_before(fault: Fault, folder: Path) -> int:
    source = _chunked_input(folder)
    faults.after_a_tick(fault, *faults.two_files(source, "0/c"))
    pipeline = world.short_pipeline()
    missing = fault is faults.delete
    plan = world.planned(pipeline, source, folder / "out")
    assert any("missing" in text for text in plan.warnings) == missing
    error = world.run_or_error(plan)
    if missing:  # counted and said, and zeros
        assert error is None
        stored = open_volume(source)
        assert (stored.read(stored.box) == 0).sum() > 0 == (world.image() == 0).sum()
        return 1
    assert isinstance(error, IncompleteError), f"damage of the input ended with {error!r}"
    found = {p.name: p for p in status(folder / "out").passes}["scan"]
    assert found.quarantined
    assert found.done + len(found.quarantined) == found.units
    return 1


def _input_between(fault: Fault, folder: Path) -> int:
    source = _chunked_input(folder)
    plan = world.planned(world.short_pipeline(), source, folder / "out")
    assert isinstance(world.run_or_error(plan, on_event=world.Interrupts("label", 3)), KeyboardInterrupt)
    faults.after_a_tick(fault, *faults.two_files(source, "0/c"))
    error = world.run_or_error(world.planned(world.short_pipeline(), source, folder / "out"))
    if fault is faults.flip or fault is faults.zero:
        # Size and time are as they were: not noticed by the listing, and noticed where it is read.
        _is_refused_or_right(error, folder / "out")
    else:
        assert isinstance(error, InputChangedError), f"a changed input ended with {error!r}"
    return 1


def _input_during(fault: Fault, folder: Path) -> int:
    source = _chunked_input(folder)
    plan = world.planned(world.short_pipeline(), source, folder / "out")
    listener = world.At("label", lambda: faults.after_a_tick(fault, *faults.two_files(source, "0/c")))
    error = world.run_or_error(plan, on_event=listener)
    assert listener.fired
    if fault is faults.flip or fault is faults.zero:
        _is_refused_or_right(error, folder / "out")
        return 1
    assert isinstance(error, ChunkflowError), "an input that changed under the run was not noticed"
    assert not (folder / "out" / "image.ome.zarr").exists()
    assert status(folder / "out").state != "complete"
    return 1


def _is_refused_or_right(error: BaseException | None, output: Path) -> None:
    """What was read before the damage may be used; what is read after it must not pass for data."""
    if error is None:
        world.check_equal(output, world.clean_hash())
    assert error is None or status(output).state != "complete"


def _bit_rot(folder: Path) -> int:
    """Bytes change under a run that was killed, and no time of the file tells: digests are compared."""
    from unittest import mock

    from chunkflow.run import digests

    plan = world.planned(world.short_pipeline(), world.source_in(folder), folder / "out")
    assert isinstance(world.run_or_error(plan, on_event=world.Interrupts("relabel")), KeyboardInterrupt)
    journal = folder / "out/run/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert b'"end"' in lines[-1]
    journal.write_bytes(b"".join(lines[:-1]))  # as though it had been killed
    faults.swap(*faults.two_files(folder / "out", "run/arrays/label-*/provisional"))
    with mock.patch.object(digests, "_changed_ns", return_value=0):
        world.check_ends_well(plan, world.clean_hash())
    return 1


def _unfinished_journal(folder: Path) -> tuple[Path, bytes]:
    """A folder as it was left in the middle of things, and its journal."""
    plan = world.planned(world.short_pipeline(), world.source_in(folder), folder / "out")
    first = world.planned(world.short_pipeline(20000.0), folder / "in.ome.zarr", folder / "out")
    world.run(first)
    assert isinstance(world.run_or_error(plan, on_event=world.Interrupts("relabel", 4)), KeyboardInterrupt)
    return folder / "out", (folder / "out/run/journal.jsonl").read_bytes()


def _cut_and_read(count: int, folder: Path) -> int:
    """The last so many lengths of the file."""
    _, content = _unfinished_journal(folder)
    path = folder / "cut.jsonl"
    lengths = range(max(0, len(content) - count), len(content))
    for length in lengths:
        path.write_bytes(content[:length])
        whole = content[:length].count(b"\n")
        journal = Journal.read(path)
        units = sum(len(state.done) for state in journal.passes.values())
        assert units <= whole
        assert len(journal.starts) == content[:length].count(b'"event":"start"') - _is_torn(content, length)
    return len(lengths)


def _is_torn(content: bytes, length: int) -> int:
    """Whether the cut goes through a line that says start."""
    begin = content.rfind(b"\n", 0, length) + 1
    return int(b'"event":"start"' in content[begin:length])


def _cut_and_resume(count: int, folder: Path) -> int:
    output, content = _unfinished_journal(folder)
    rng = random.Random(count)
    lengths = sorted(rng.sample(range(len(content)), count))
    lines = [0, *np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n")).tolist()]
    lengths += rng.sample(lines, min(count // 4, len(lines)))
    for length in lengths:
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(output, copy)
        (copy / "run/journal.jsonl").write_bytes(content[:length])
        plan = world.planned(world.short_pipeline(), folder / "in.ome.zarr", copy)
        error = world.run_or_error(plan)
        if isinstance(error, IntegrityError):
            error = world.run_or_error(plan)
        assert error is None, f"cut at {length}: {error!r}"
        world.check_equal(copy, world.clean_hash())
    return len(lengths)


CASES = _cases()
