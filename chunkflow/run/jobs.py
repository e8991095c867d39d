"""From a pass of a plan to the job that its units are sent out with: where everything lies that they read and write.

Paths are absolute: a worker may have been started in another folder, or a function of the user's may go to one.
"""

from __future__ import annotations

from dataclasses import replace

from chunkflow.errors import IntegrityError
from chunkflow.plan.passes import Pass, PlannedArray
from chunkflow.run.ongoing import Run
from chunkflow.run.places import Places
from chunkflow.run.worker import Job, Needed, Source
from chunkflow.stages.label import label_dtype
from chunkflow.storage.layout import ArrayLayout
from chunkflow.storage.records import merged_path, read_record, write_record
from chunkflow.storage.stores import place_of
from chunkflow.storage.tiff_stack import TiffStack
from chunkflow.storage.volume import Volume, create_array, holds_array, restore_metadata


def job_of(run: Run, p: Pass) -> Job:
    """The job of a pass; creates the arrays that it writes, and stores its constants."""
    places, plan = run.places, run.plan
    for name in (*p.reads, *(spec.name for spec in p.draft.writes)):
        if name in plan.arrays and holds_array(folder := places.locate(name, run.journal.locations)):
            # No unit wrote them, so no digest knows them: they are what the plan says, whatever became of them since.
            restore_metadata(folder, final_layout(places, plan.arrays[name]))
    reads = {name: _source(run, name) for name in p.reads}
    writes: dict[str, Source] = {}
    for spec in p.draft.writes:
        array = plan.arrays[spec.name]
        scale = plan.scale
        volume = create_array(places.locate(spec.name, run.journal.locations), final_layout(places, array), scale)
        writes[spec.source] = Source(str(place_of(volume.path).resolve()))
    constants = places.constants(p.name).resolve()
    if p.draft.constants:
        write_record(constants, p.draft.constants)
    return Job(
        name=p.name,
        steps=p.draft.steps,
        merge=p.draft.merge,
        grid=p.draft.grid,
        reads=reads,
        writes=writes,
        needs={name: _need(run, p, name) for name in p.draft.needs},
        records=str(places.records(p.name).resolve()),
        constants=str(constants) if p.draft.constants else "",
        nan=plan.pipeline.input.nan,
        device=run.device.kind,
        epoch=run.epoch,
        ahead=plan.reads_ahead(p),
        needs_bytes=plan.process_bytes + p.peak_bytes,
        on_oom=run.on_oom,
    )


def _source(run: Run, name: str) -> Source:
    if name in ("input", "input_mask"):
        volume = run.plan.input if name == "input" else run.plan.mask
        if volume is None:
            raise IntegrityError(f"pass reads {name}, which the plan does not have")
        return _source_of(volume)
    if name in run.plan.beside.arrays:
        return _source_of(run.plan.beside.arrays[name])
    return Source(str(run.places.locate(name, run.journal.locations).resolve()))


def _source_of(opened: Volume | TiffStack) -> Source:
    return Source(str(place_of(opened.path).resolve()), opened.axes, opened.at, opened.window)


def _need(run: Run, p: Pass, name: str) -> Needed:
    needed = run.plan.pass_named(name)
    same_grid = needed.draft.grid == p.draft.grid
    folder = str(run.places.records(name).resolve())
    return Needed(folder, len(needed.draft.grid), needed.draft.merge is not None, same_grid)


def final_layout(places: Places, array: PlannedArray) -> ArrayLayout:
    """The layout of an array with the dtype that holds every label, once their number is known."""
    if not array.labels:
        return array.layout
    merged = read_record(merged_path(places.records("label-merge")))
    return replace(array.layout, dtype=label_dtype(merged).name)
