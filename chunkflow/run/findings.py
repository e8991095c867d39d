"""What the merges of a run found that the user should know: sentences for its warnings and for its report.

    range              one value fills the volume; negative voxels; saturated voxels
    correct-levels     planes whose gain is far from one
    correct-range      voxels that the correction took below zero
    deconvolve-check   a number of iterations that the limit cut off
    deconvolve-range   voxels beyond what the type of the restored image holds
    apply-seams        tiles of a segmenter that disagree about where objects end
    objects            intensities that a far larger value elsewhere left no digits for
    any                blocks that were set aside and stand as background; units of several kinds of compute

Settings are those that the output folder keeps (`Pipeline.to_dict`, `Plan.to_dict`), so a finished run says what it
said while it ran. Counts are exact and of the whole volume; where those voxels lie is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from chunkflow.run.journal import PassState
from chunkflow.stages.deconvolve import HEADROOM
from chunkflow.stages.restoration import ALGORITHMS

Values = Mapping[str, NDArray[Any]]

COMMON_SHARE = 0.4
"""Of the voxels, all with one value: rather padding than data."""
SATURATED_VOXELS, SATURATED_ONE_IN = 10, 100_000
"""So many voxels of an integer image that share its largest value, and one in so many, are no coincidence."""
LARGEST_GAIN = 3.0
"""Of a plane, or one over it, that is taken without a word."""
CLIPPED_SHARE = 0.01
"""Of the voxels that a correction may take below zero, beside those that a background percentile takes there."""
AMBIGUOUS_ONE_IN = 20
"""So many pairs of objects at the seams of tiles, merged or not, and one that is ambiguous is too many."""
NAMED_RANGES = 8
"""Ranges of planes that are named."""
NAMED_BOXES = 5
"""Blocks that are named by their boxes."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a run says of its merges.

    pipeline, plan : as plan.json has them
    values : what a merge left, by its name
    states : what the journal knows of passes, by their names
    """

    pipeline: Mapping[str, Any]
    plan: Mapping[str, Any]
    values: Callable[[str], Values]
    states: Mapping[str, PassState] = field(default_factory=dict)

    def after(self, name: str) -> list[str]:
        """Sentences about what a pass found; none for most passes, nor of what another run lent."""
        if self.pipeline["input"].get("statistics_from"):
            return []
        merged = [text for say in SAID_AFTER.get(name, ()) for text in say(self)]
        return merged + holes_of_pass(name, self.states.get(name))

    def all(self) -> list[str]:
        """Sentences about all passes, in their order."""
        return [text for p in self.plan["passes"] for text in self.after(p["name"])] + kinds_of_run(self.states)

    @property
    def stages(self) -> dict[str, Mapping[str, Any]]:
        """Parameters of the stages, by their names."""
        return {key: values for stage in self.pipeline["stages"] for key, values in stage.items()}

    @property
    def restored_limits(self) -> Values:
        """The range of the image that is deconvolved."""
        return self.values("correct-range" if "correct" in self.stages else "range")

    def saturated(self) -> int:
        """Voxels of the input that are probably saturated."""
        return saturated(self.values("range"), self.plan["input"]["dtype"])

    def scale(self) -> float | None:
        """Grey values per unit of the restored image; None of a float32 image."""
        stage = self.stages["deconvolve"]
        if stage["dtype"] == "float32":
            return None
        if stage["scale"] != "auto":
            return float(stage["scale"])
        return float(np.iinfo(stage["dtype"]).max / (HEADROOM * max(float(self.restored_limits["high"][0]), 1e-30)))


def holes_of_pass(name: str, state: PassState | None) -> list[str]:
    """Say where blocks of a pass are missing in what the later ones saw."""
    if state is None or not state.holes:
        return []
    boxes = [str(state.quarantined[unit].get("core", f"block {unit}")) for unit in state.holes]
    named = "; ".join(boxes[:NAMED_BOXES])
    rest = f"; and {len(boxes) - NAMED_BOXES} more (chunkflow status)" if len(boxes) > NAMED_BOXES else ""
    count = "1 block was" if len(boxes) == 1 else f"{len(boxes)} blocks were"
    return [
        f"{name}: {count} set aside and read as background by what follows (z, y, x: {named}{rest}). Numbers of this "
        "result leave out what is there"
    ]


def kinds_of_run(states: Mapping[str, PassState]) -> list[str]:
    """Say so where a result was computed on several kinds of device, processor or library versions."""
    kinds = sorted({kind for state in states.values() for kind in state.kinds})
    if len(kinds) < 2:
        return []
    return [
        f"mixed: computed on {len(kinds)} kinds of compute ({'; and '.join(kinds)}). Voxels near a threshold may "
        "differ from what one kind alone gives"
    ]


def saturated(limits: Values, dtype: DTypeLike) -> int:
    """Voxels with the largest value, where that is the type's, or where too many share it to do so by chance."""
    kind, count, high = np.dtype(dtype), int(limits["at_high"][0]), float(limits["high"][0])
    if kind.kind not in "iu" or high == float(limits["low"][0]):
        return 0
    many = count >= SATURATED_VOXELS and count * SATURATED_ONE_IN >= int(limits["count"][0])
    return count if many or high == float(np.iinfo(kind).max) else 0


def counts_negative_as_zero(algorithm: str) -> bool:
    """Whether an algorithm multiplies, so that a negative voxel is a dark one; the others fit its value."""
    known = ALGORITHMS[algorithm]
    return known.iterations > 0 and not known.gradient


def voxels(count: int, total: int) -> str:
    """A number of voxels with its share of all."""
    return f"{count:,} voxel{'' if count == 1 else 's'} ({100 * count / max(total, 1):.3g} %)"


def _common_value(ran: Findings) -> list[str]:
    """Say so when one value fills most of the volume and nobody said that it is no data."""
    if ran.pipeline["input"]["nodata"] is not None:
        return []
    limits = ran.values("range")
    share = int(limits["common_count"][0]) / prod(ran.plan["input"]["shape"])
    if share <= COMMON_SHARE or float(limits["low"][0]) == float(limits["high"][0]):
        return []
    value = _plain(float(limits["common"][0]))
    return [
        f"{share:.0%} of the input has the value {value}. If that is padding, set input: {{nodata: {value}}}: "
        "it takes part in thresholds now"
    ]


def _negative(ran: Findings) -> list[str]:
    """Negative voxels that a deconvolution sees: of the input, as a correction leaves none."""
    stage = ran.stages.get("deconvolve")
    if stage is None or "correct" in ran.stages or stage["negative"] != "clip":
        return []
    limits = ran.values("range")
    count = int(limits["negative"][0])
    if not count or not counts_negative_as_zero(stage["algorithm"]):
        return []
    are, one = ("is", "s") if count == 1 else ("are", "")
    return [f"{voxels(count, int(limits['count'][0]))} {are} negative and count{one} as 0 in the deconvolution"]


def _saturated(ran: Findings) -> list[str]:
    if "deconvolve" not in ran.stages or not (count := ran.saturated()):
        return []
    limits = ran.values("range")
    return [
        f"{voxels(count, int(limits['count'][0]))} {'has' if count == 1 else 'have'} the largest value "
        f"{_plain(float(limits['high'][0]))}: probably saturated; deconvolution makes bright rims around them. "
        "Expose less, and measure no intensities there"
    ]


def _gains(ran: Findings) -> list[str]:
    """Planes, or the volume, that are made much brighter or darker."""
    stage = ran.stages["correct"]
    if stage["gain"] == "none":
        return []
    gain, found = ran.values("correct-levels")["gain"], []
    for wrong, remedy in (
        (gain > LARGEST_GAIN, "their noise grows as much. Crop them, or raise gain_percentile"),
        (gain < 1 / LARGEST_GAIN, "they hold more light than the rest. Check gain_percentile"),
    ):
        if not wrong.any():
            continue
        if stage["gain"] == "volume":
            where, remedy = "the volume is", f"is gain_reference {stage['gain_reference']:g} meant?"
        else:
            where = f"{planes(np.flatnonzero(wrong))} {'is' if wrong.sum() == 1 else 'are'}"
        low, high = f"{gain[wrong].min():.3g}", f"{gain[wrong].max():.3g}"
        found.append(f"correct: {where} multiplied by {low if low == high else f'{low} to {high}'}: {remedy}")
    return found


def _taken_below_zero(ran: Findings) -> list[str]:
    limits = ran.values("correct-range")
    count, total = int(limits["clipped"][0]), int(limits["count"][0])
    asked = (ran.stages["correct"]["background_percentile"] or 0) / 100
    if count <= (asked + CLIPPED_SHARE) * total:
        return []
    return [
        f"correct: {voxels(count, total)} {'was' if count == 1 else 'were'} below dark and background, and 0 now. "
        "Check that dark was taken as the image was, or lower it"
    ]


def _cut_off(ran: Findings) -> list[str]:
    """The best number of iterations may lie beyond those that were tried."""
    check = ran.values("deconvolve-check")
    if "at_end" not in check or not check["at_end"][0]:
        return []
    tried = int(check["iterations"][0])
    return [
        f"deconvolve: of {tried} iterations tried the last was best. Allow more with deconvolve: "
        f"{{iterations: {2 * tried}}}"
    ]


def _beyond_type(ran: Findings) -> list[str]:
    """Voxels of a restored image that its integers do not hold, above or below."""
    stage, limits = ran.stages["deconvolve"], ran.values("deconvolve-range")
    count, scale = int(limits["clipped"][0]), ran.scale()
    if not count or scale is None:
        return []
    beyond = (
        f"deconvolve: {voxels(count, prod(ran.plan['input']['shape']))} of the restored image "
        f"{'is' if count == 1 else 'are'} beyond what {stage['dtype']} holds, and clipped"
    )
    if float(limits["high"][0]) < np.iinfo(stage["dtype"]).max:
        return [f"{beyond}: all of them negative. Set dtype: float32, which holds them"]
    smaller = _plain(float(f"{scale / 2:.2g}"))
    return [f"{beyond}. The scale is {scale:.3g}; set deconvolve: {{scale: {smaller}}}, or dtype: float32"]


def _ambiguous(ran: Findings) -> list[str]:
    """Tiles see too little of each other for objects of that size."""
    seams = ran.values("apply-seams")
    ambiguous, merged = int(seams["ambiguous"].sum()), int(seams["merged"].sum())
    if ambiguous * AMBIGUOUS_ONE_IN <= ambiguous + merged:
        return []
    return [
        f"apply: at the seams of tiles {ambiguous:,} of {ambiguous + merged:,} pairs of alike objects are ambiguous: "
        "tiles disagree about where objects end. Make the halo longer, and normalise by numbers of the whole volume"
    ]


def _coarse(ran: Findings) -> list[str]:
    """Objects whose intensities the fixed point of the volume does not tell apart."""
    count = int(ran.values("objects").get("coarse", np.zeros(1))[0])
    if not count:
        return []
    return [
        f"measure: {count:,} object{' has' if count == 1 else 's have'} no mean or deviation of an intensity: voxels "
        "elsewhere hold values so large that too few digits are left. If those are no data, set "
        "input: {nodata: VALUE}, or replace them in the image that is measured"
    ]


def planes(indices: Sequence[int] | NDArray[np.int64]) -> str:
    """Planes by their numbers, neighbours as ranges: "planes 0-3 and 7"."""
    runs = np.split(np.asarray(indices), np.flatnonzero(np.diff(indices) > 1) + 1)
    named = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    if len(named) > NAMED_RANGES:
        rest = sum(len(run) for run in runs[NAMED_RANGES:])
        named = [*named[:NAMED_RANGES], f"{rest} more"]
    words = " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)
    return f"plane{'' if len(indices) == 1 else 's'} {words}"


def _plain(value: float) -> str:
    return np.format_float_positional(value, trim="-") if isfinite(value) else str(value)


SAID_AFTER: Mapping[str, tuple[Callable[[Findings], list[str]], ...]] = {
    "range": (_common_value, _negative, _saturated),
    "correct-levels": (_gains,),
    "correct-range": (_taken_below_zero,),
    "deconvolve-check": (_cut_off,),
    "deconvolve-range": (_beyond_type,),
    "apply-seams": (_ambiguous,),
    "objects": (_coarse,),
}
