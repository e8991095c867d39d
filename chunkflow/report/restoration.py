"""What a run did to the image before anything was measured: uneven light corrected, blur taken out.

    correct-levels, correct-range       background, gains of the planes            --> rows and a chart
    plan.json: facts, deconvolve        PSF and where its numbers came from        --> table with sources
    deconvolve-check, deconvolve-range  iterations, tiles against the whole volume --> rows, charts, one sentence

Numbers of merges and of the plan; no voxel is read. What was chosen from samples is shown with the numbers it was
chosen by, where there are any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.report import charts
from chunkflow.report.facts import RunFacts
from chunkflow.report.html import counted, html_table, number, short, sides
from chunkflow.run.findings import counts_negative_as_zero, voxels
from chunkflow.stages.probe import COLUMNS
from chunkflow.stages.restoration import ALGORITHMS

PSF_WORDS: Mapping[str, tuple[str, str]] = {
    "model": ("model", ""),
    "path": ("file", ""),
    "na": ("numerical aperture", ""),
    "magnification": ("magnification", ""),
    "emission_nm": ("emission", "nm"),
    "excitation_nm": ("excitation", "nm"),
    "immersion_index": ("refractive index of the immersion", ""),
    "sample_index": ("refractive index of the sample", ""),
    "pinhole_au": ("pinhole", "AU"),
    "pinhole_um": ("pinhole", "µm"),
    "depth_um": ("depth below the coverslip", "µm"),
    "coverslip_um": ("thickness of the coverslip", "µm"),
    "tilt_degrees": ("tilt of the light sheet", "°"),
    "sheet_um": ("width of the light sheet", "µm"),
    "energy": ("share of the light inside", ""),
    "fwhm_um": ("full widths at half maximum (z × y × x)", "µm"),
    "shape": ("size", "voxels"),
    "slab_um": ("a PSF of its own every", "µm of depth"),
}
SOURCES = {"image": "the image's metadata", "assumed": "<b>assumed</b>"}
CURVE = {
    "residual": "residual, relative",
    "i_divergence": "I-divergence per voxel",
    "gcv": "GCV",
    "resolution_um": "resolution, µm",
}
"""Words for the columns of the table that a number of iterations was chosen from (`stages.probe.COLUMNS`)."""
CURVE_ROWS = 25


def restored_with(run: RunFacts) -> str:
    """One sentence for people who read the terminal; empty where nothing was deconvolved."""
    stage, check = run.stages.get("deconvolve"), run.values("deconvolve-check")
    if stage is None or check is None:
        return ""
    words = [str(stage["algorithm"])]
    if ALGORITHMS[stage["algorithm"]].iterations:
        words.append(counted(int(check["iterations"][0]), "iteration"))
    psf = run.plan["facts"]["psf"]
    widths = " x ".join(short(width, 3) if isfinite(width) else "?" for width in psf["fwhm_um"][0])
    words.append(f"PSF {psf['model'][0]} {widths} um{' as imaged' if run.expansion != 1 else ''}")
    return f"restored with {', '.join(words)}; {_agreement(float(check['difference'][0]), stage['tolerance'])}"


def restoration_numbers(run: RunFacts) -> dict[str, Any]:
    """The same for machines; empty where nothing was deconvolved."""
    stage, check = run.stages.get("deconvolve"), run.values("deconvolve-check")
    if stage is None or check is None:
        return {}
    difference, limits = float(check["difference"][0]), run.findings.restored_limits
    restored = run.values("deconvolve-range") or {}
    return {
        "algorithm": stage["algorithm"],
        "iterations": int(check["iterations"][0]),
        "psf": {name: _json_value(value) for name, (value, _) in run.plan["facts"]["psf"].items()},
        "tolerance": stage["tolerance"],
        "difference": difference if isfinite(difference) else None,
        "negative": int(limits["negative"][0]),
        "saturated": run.findings.saturated(),
        "clipped": int(restored["clipped"][0]),
    }


def _json_value(value: Any) -> Any:
    """JSON has no infinity, which is the width of a PSF that ends before its half maximum."""
    if isinstance(value, list):
        return [_json_value(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def expansion_line(run: RunFacts) -> str:
    """What is in which um, where the specimen was swollen."""
    if run.expansion == 1:
        return ""
    factor = short(run.expansion)
    return (
        f"<p class='caption'>The specimen was swollen {factor} times. Optics (the PSF and its depths) are in µm as "
        f"imaged; everything else, tables and scale bars too, is in µm of the specimen: µm as imaged / {factor}.</p>"
    )


def restoration(run: RunFacts) -> str:
    """The section: what was corrected, then what was deconvolved and how far that can be relied on."""
    return _correction(run) + _deconvolution(run)


def _correction(run: RunFacts) -> str:
    stage, limits = run.stages.get("correct"), run.values("correct-range")
    if stage is None or limits is None:
        return ""
    levels = run.values("correct-levels")
    facts = {
        "dark": "" if stage["dark"] is None else str(stage["dark"]),
        "flat": "" if stage["flat"] is None else str(stage["flat"]),
        "top-hat": "" if stage["background_tophat_um"] is None else _tophat(stage["background_tophat_um"]),
    }
    gains = None
    if levels is not None:
        if stage["background_percentile"] is not None:
            facts["background"] = (
                f"{short(float(levels['background'][0]))} (percentile {short(stage['background_percentile'])})"
            )
        if stage["gain"] != "none":
            gains = levels["gain"]
            facts["gain"] = _gain_fact(stage, levels, gains)
    facts["below zero, set to 0"] = voxels(int(limits["clipped"][0]), int(limits["count"][0]))
    chart = ""
    if gains is not None and stage["gain"] == "slice":
        chart = charts.line(gains, first=0, x_label="plane (z)", y_label="gain")
    return f"<h3>Correction</h3>{_facts_table(facts)}<div class='charts'>{chart}</div>"


def _tophat(um: Any) -> str:
    return f"box of half side {sides(um) if isinstance(um, list) else short(um)} µm"


def _gain_fact(stage: Mapping[str, Any], levels: Mapping[str, Any], gains: NDArray[np.float64]) -> str:
    reference = f"to a level of {short(float(levels['reference'][0]))} (percentile {short(stage['gain_percentile'])})"
    if stage["gain"] == "volume":
        return f"{short(float(gains[0]))}, {reference}"
    unscaled = int(levels["unscaled"][0])
    left = f"; {counted(unscaled, 'plane')} no brighter than the background left as they are" if unscaled else ""
    return f"{short(float(gains.min()), 3)} to {short(float(gains.max()), 3)} by plane, {reference}{left}"


def _deconvolution(run: RunFacts) -> str:
    stage, check = run.stages.get("deconvolve"), run.values("deconvolve-check")
    if stage is None or check is None:
        return ""
    head = restored_with(run).replace(" x ", " × ").replace(" um", " µm")
    return (
        f"<h3>Deconvolution</h3><p>{escape(head[0].upper() + head[1:])}.</p>"
        f"{_facts_table(_how(run, stage, check))}{_psf(run)}{_curve(run, check)}"
    )


def _how(run: RunFacts, stage: Mapping[str, Any], check: Mapping[str, Any]) -> dict[str, str]:
    """Algorithm, tiles and the voxels that were not what they should be."""
    known, limits = ALGORITHMS[stage["algorithm"]], run.findings.restored_limits
    count = int(limits["count"][0])
    source = " (chosen, see below)" if "curve" in check else " (usual)" if stage["iterations"] is None else ""
    facts = {
        "algorithm": stage["algorithm"] + (" with momentum" if stage["momentum"] else ""),
        "iterations": number(int(check["iterations"][0])) + source,
        "regularization": _usual(stage["regularization"], known.regularization),
        "step": _usual(stage["step"], 1.0) if known.gradient else "",
        "bounds": "" if stage["bounds"] is None else " to ".join(short(value) for value in stage["bounds"]),
        "background": f"{short(stage['background'])} grey values",
        "edges": stage["edges"],
        **_tiles(run, stage),
        "tolerance": f"{_exponent(stage['tolerance'])} (relative L2)",
        "difference measured": _difference(float(check["difference"][0])),
        "restored image": _type(run, stage),
        "negative voxels": _negative(int(limits["negative"][0]), count, stage["algorithm"]),
        "saturated voxels": _saturated(run),
    }
    return facts if known.iterations else {k: v for k, v in facts.items() if k != "iterations"}


def _tiles(run: RunFacts, stage: Mapping[str, Any]) -> dict[str, str]:
    planned = next(p for p in run.plan["passes"] if p["name"] == "deconvolve")
    if planned["units"] == 1:
        return {"tiles": "one, the whole volume"}
    halo = planned["halo"] if stage["halo"] == "auto" else stage["halo"]
    return {
        "tiles": f"{number(planned['units'])} of {sides(planned['core'])} voxels",
        "halo": f"{sides(halo)} voxels ({'from the PSF' if stage['halo'] == 'auto' else 'given'})",
    }


def _usual(given: float | None, usual: float | None) -> str:
    return "" if usual is None else f"{short(usual)} (usual)" if given is None else short(given)


def _agreement(difference: float, tolerance: float) -> str:
    if not isfinite(difference):
        return "one tile holds the volume"
    return f"tiles differ from the whole volume by {_exponent(difference)} (tolerance {_exponent(tolerance)})"


def _difference(value: float) -> str:
    return f"{_exponent(value)}, the largest of the samples" if isfinite(value) else "none: one tile holds the volume"


def _exponent(value: float) -> str:
    """A small number by its size: 3e-4."""
    return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-").replace("e+00", "")


def _type(run: RunFacts, stage: Mapping[str, Any]) -> str:
    scale, limits = run.findings.scale(), run.values("deconvolve-range")
    if scale is None or limits is None:
        return str(stage["dtype"])
    clipped = voxels(int(limits["clipped"][0]), prod(run.plan["input"]["shape"]))
    return f"{stage['dtype']}, {short(scale)} grey values per unit; clipped: {clipped}"


def _negative(count: int, total: int, algorithm: str) -> str:
    if not count:
        return "none"
    return voxels(count, total) + (", counted as 0" if counts_negative_as_zero(algorithm) else "")


def _saturated(run: RunFacts) -> str:
    limits, count = run.findings.values("range"), run.findings.saturated()
    if not count:
        return "none seen"
    return f"{voxels(count, int(limits['count'][0]))} with the largest value, {short(float(limits['high'][0]))}"


def _psf(run: RunFacts) -> str:
    chosen = run.stages["deconvolve"]["psf"]  # of one channel, or of several by name
    slab = {"slab_um": (chosen["slab_um"], "given")} if chosen.get("slab_um") else {}
    facts = {**run.plan["facts"]["psf"], **slab}
    rows = []
    for name, (value, source) in facts.items():
        words, unit = PSF_WORDS.get(name, (name, ""))
        text = _value(value)
        rows.append([escape(words), escape(f"{text} {unit}" if unit else text), SOURCES.get(source, escape(source))])
    guessed = [PSF_WORDS.get(name, (name, ""))[0] for name, (_, source) in facts.items() if source == "assumed"]
    note = (
        f"<p class='caption'>Assumed: {escape(', '.join(guessed))}. Give them under psf if they were otherwise.</p>"
        if guessed
        else ""
    )
    title = "Point-spread function" + (" (µm as imaged)" if run.expansion != 1 else "")
    return f"<h3>{title}</h3>{html_table(('', '', 'source'), rows, texts={0, 1, 2}, kind='facts')}{note}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " × ".join("–" if each is None or not isfinite(each) else short(each) for each in value)
    return short(value) if isinstance(value, int | float) else str(value)


def _curve(run: RunFacts, check: Mapping[str, Any]) -> str:
    """What each number of iterations would have given, where the run chose one by that."""
    if "curve" not in check:
        return ""
    known = np.where(np.isfinite(check["curve"]), check["curve"], np.nan)
    columns = dict(zip(COLUMNS, known.T, strict=True))
    columns = {name: column for name, column in columns.items() if np.isfinite(column).any()}
    chosen, tried = int(check["iterations"][0]), len(check["curve"])
    labels = {**CURVE, "resolution_um": CURVE["resolution_um"] + (" as imaged" if run.expansion != 1 else "")}
    drawn = "".join(
        charts.line(
            column, first=1, x_label="iteration", y_label=labels[name], marker=chosen, marker_label=f"chosen: {chosen}"
        )
        for name, column in columns.items()
    )
    step = -(-tried // CURVE_ROWS)
    shown = [k for k in range(1, tried + 1) if k in (1, chosen, tried) or k % step == 0]
    rows = [[_marked(k, k == chosen), *(number(column[k - 1]) for column in columns.values())] for k in shown]
    return (
        f"<h3>Iterations</h3><p>{counted(tried, 'iteration')} were tried on samples of the volume; "
        f"{number(chosen)} {'is' if chosen == 1 else 'are'} used for all of it.</p><div class='charts'>{drawn}</div>"
        + html_table(("iteration", *(labels[name] for name in columns)), rows)
    )


def _marked(iteration: int, is_chosen: bool) -> str:
    return f"<b>{iteration} (chosen)</b>" if is_chosen else str(iteration)


def _facts_table(facts: Mapping[str, str]) -> str:
    rows: Sequence[Sequence[str]] = [[escape(name), escape(value)] for name, value in facts.items() if value]
    return html_table((), rows, texts={0, 1}, kind="facts")
