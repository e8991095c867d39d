"""What a merge will hold, told just before it starts from what the passes before it recorded.

A plan can only guess: memory of merges grows with what is in the data. By the time a merge is next, every record it
reads is there; so the rows that it will hold are counted, exactly where a merge before it left their number, else from
a sample of the records and the sizes of all of them, which the journal has. A merge that cannot fit is refused in a
sentence, instead of a worker that dies three times. What is done is kept.

    held at once    regions-merge, apply-merge                             `HELD`: bytes per row
    bounded         label-merge: two slabs of blocks, the rest on a shelf; seeds-merge, flood-merge: likewise, and some
                    tens of bytes per seed; objects, contacts: a range of objects (`stages.ranges`), and of what
                    regions-merge left, 90 bytes per object; networks, graph: a part of the graph; ranges and
                    histograms: 64 records at a time. Nothing is checked for them
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import psutil

from chunkflow.errors import BlockMemoryError, IntegrityError
from chunkflow.plan.passes import Pass
from chunkflow.run.ongoing import Run
from chunkflow.run.resident import resident_bytes
from chunkflow.storage.records import merged_path, read_record, record_path

log = logging.getLogger(__name__)

SAMPLED = 64
"""Records that are read: a second on a slow store."""
SURELY = 0.75
"""Of what is told, that a merge takes in any case: the rest is the spread of `HELD` over data of different kinds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Rows that a merge holds at once.

    source : the pass that left them
    array : of its records, one entry per row; or of its merge, one value that is their number
    per_row : bytes at the peak, as measured
    rows : what they are, for people
    """

    source: str
    array: str
    per_row: int
    rows: str
    is_count: bool = False


HELD: Mapping[str, Held] = {
    "regions-merge": Held(source="label", array="region_value", per_row=180, rows="regions"),
    "apply-merge": Held(source="apply", array="first", per_row=90, rows="objects of tiles"),
}
"""By the pass; tests measure them. A region that lies in several blocks counts in each."""


def check_merge(run: Run, p: Pass) -> None:
    """Refuse a merge that cannot fit where it is to run, and warn of one that may not.

    Raises
    ------
    BlockMemoryError : says how many rows there are, what they take, and what there is.
    """
    held = HELD.get(p.name)
    rows = None
    with suppress(IntegrityError):  # the merge meets it too, and whoever wrote it is then looked for
        rows = None if held is None else _rows(run, held)
    if held is None or rows is None:
        return
    takes = held.per_row * rows
    needs = run.plan.process_bytes + takes
    is_here = run.engine.name in ("serial", "threads") or getattr(run.engine, "runs_single_units_here", False)
    free = psutil.virtual_memory().available
    limit = free + resident_bytes() if is_here else run.plan.memory
    log.info("merge %s: %d %s, %.0f MiB of %.0f", p.name, rows, held.rows, needs / 2**20, limit / 2**20)
    if needs <= limit:
        return
    said = (
        f"{p.name} holds {rows:,} {held.rows} at once, about {needs / 2**30:,.1f} GiB in one process, and "
        f"{'this one' if is_here else 'a worker'} may take {limit / 2**30:,.1f} GiB"
    )
    block = " ".join(map(str, run.plan.block))
    remedy = (
        f"Go on where there is more, with --block {block}, which keeps what is done: --on serial takes what this "
        f"machine has free ({free / 2**30:,.1f} GiB), a profile's memory is that of its jobs. Or drop small objects: "
        "smooth_um, or a higher threshold"
    )
    if run.plan.process_bytes + SURELY * takes > limit and (is_here or run.engine.name == "local"):
        raise BlockMemoryError(said, remedy)
    run.say({"event": "warning", "text": f"{said}. {remedy}"})


def _rows(run: Run, held: Held) -> int | None:
    """How many there are; None where this plan has no such pass."""
    if held.source not in run.places.fingerprints:
        return None
    folder = run.places.records(held.source)
    if held.is_count:
        merged = read_record(merged_path(folder))
        return int(merged[held.array][0]) if held.array in merged else None
    done = run.journal.state(run.fingerprint(held.source)).done
    units = sorted(done)
    sample = [units[i] for i in np.unique(np.linspace(0, len(units) - 1, SAMPLED).astype(int))] if units else []
    found = [(len(read_record(record_path(folder, u)).get(held.array, ())), int(done[u]["record"])) for u in sample]
    return estimated_rows(found, (int(line["record"]) for line in done.values()))


def estimated_rows(sample: Sequence[tuple[int, int]], sizes: Iterable[int]) -> int:
    """Rows of all records, by the rows per byte of some.

    Parameters
    ----------
    sample : rows and size of some records.
    sizes : of all of them.
    """
    rows, read = (sum(column) for column in zip(*sample, strict=True)) if sample else (0, 0)
    return round(rows / read * sum(sizes)) if read else 0
