"""The disk that a run takes: what is kept, what is temporary, and the most there is at one time.

    pass            1      2      3      4            an array lies there from the pass that writes it
    image (kept)    |-------------------------->      to the end, or, where it is temporary,
    provisional            |------|                   to the last pass that reads it

Sizes are those before compression, so they are bounds: labels and masks compress a hundredfold, images hardly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chunkflow.plan.passes import Pass, PlannedArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Bytes before compression.

    kept : arrays of the result; temporary : all others, side by side
    peak : the most at one time, where each temporary array is deleted after the last pass that reads it
    peak_pass : in which pass that is
    """

    kept: int
    temporary: int
    peak: int
    peak_pass: str


def last_readers(passes: Sequence[Pass], arrays: Mapping[str, PlannedArray]) -> dict[str, str]:
    """The last pass that reads each temporary array; the pass that writes it, where none does."""
    found = {name: array.producer for name, array in arrays.items() if not array.kept}
    for p in passes:
        found |= {name: p.name for name in p.reads if name in found}
    return found


def disk_of(
    passes: Sequence[Pass], arrays: Mapping[str, PlannedArray], sizes: Mapping[str, float] | None = None
) -> Disk:
    """What the arrays of a plan take; `sizes`: bytes by array where something better than no compression is known."""
    size = {name: array.nbytes if sizes is None else int(sizes[name]) for name, array in arrays.items()}
    last = last_readers(passes, arrays)
    here = peak = 0
    peak_pass = passes[0].name
    for p in passes:
        here += sum(size[spec.name] for spec in p.draft.writes)
        if here > peak:
            peak, peak_pass = here, p.name
        here -= sum(size[name] for name, reader in last.items() if reader == p.name)
    kept = sum(size[name] for name, array in arrays.items() if array.kept)
    return Disk(kept=kept, temporary=sum(size.values()) - kept, peak=peak, peak_pass=peak_pass)
