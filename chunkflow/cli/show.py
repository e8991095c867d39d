"""What commands print: tables and lines for people, numbers for machines.

As all modules of the command line, it imports at its top nothing that takes long: completion and help need it too, and
end within a second. A function begins with what it alone needs.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from chunkflow.plan.plan import Plan
    from chunkflow.run.demo import Comparison
    from chunkflow.run.make_psf import MadePsf
    from chunkflow.run.result import Result
    from chunkflow.run.status import SetAside, Status
    from chunkflow.storage.stores import Place

WIDE = 160  # columns where the output is no terminal: tables are not to be cut
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


def new_console() -> Console:
    """The terminal, or a page wide enough for every table; `:100:` is an end and a beginning, and no picture."""
    return Console(width=None if sys.stdout.isatty() else WIDE, emoji=False)


def totals(result: Result) -> dict[str, Any]:
    """What a run found, as far as it measured it."""
    from chunkflow.report.facts import RunFacts
    from chunkflow.report.restoration import restoration_numbers

    tables = result.path / "tables"
    found: dict[str, Any] = {}
    objects = _sums(tables, "objects", ("volume_um3", "b1_graph", "certified"))
    branches = _sums(tables, "branches", ("length_um",))
    if objects:
        found |= {"objects": int(objects["rows"]), "volume_um3": objects["volume_um3"]}
    if branches:
        found["length_um"] = branches["length_um"]
    if objects and branches:
        found |= {"loops": int(objects["b1_graph"]), "certified": int(objects["certified"])}
    if restored := restoration_numbers(RunFacts(result)):
        found["restoration"] = restored
    return found


def _sums(tables: Place, name: str, columns: Sequence[str]) -> dict[str, float]:
    """The rows of a table and the sums of some columns; empty where there is no table."""
    if not (tables / f"{name}.parquet").is_file():
        return {}
    from chunkflow.storage.tables import StoredTable

    table = StoredTable(tables, name)
    each = [rows.sum() for rows in table.batches(*columns)]
    return {"rows": len(table)} | {column: fsum(float(sums[column]) for sums in each) for column in columns}


def print_comparisons(console: Console, rows: Sequence[Comparison]) -> None:
    """What was found beside the truth."""
    table = Table("", "found", "truth", "tolerance", "")
    for row in rows:
        allowed = f"within {row.tolerance:.0%}" if row.tolerance else "exact"
        verdict = "ok" if row.is_within else "outside"
        table.add_row(row.name, f"{row.found:.4g}", f"{row.truth:.4g}", allowed, verdict)
    console.print(table)


def print_summary(console: Console, result: Result, report: Place) -> None:
    """What a run found, and where it is."""
    from chunkflow.report.facts import RunFacts
    from chunkflow.report.provenance import napari_path
    from chunkflow.report.restoration import restored_with

    found = totals(result)
    words = []
    if "objects" in found:
        words += [counted(found["objects"], "object"), f"volume {found['volume_um3']:.1f} um3"]
    if "length_um" in found:
        words.append(f"total length {found['length_um']:.1f} um")
    if "loops" in found:
        words += [counted(found["loops"], "loop"), f"certified {found['certified']} of {found['objects']}"]
    out = result.path
    restored = restored_with(RunFacts(result)).removeprefix("restored ")
    lines = {"found": ", ".join(words), "restored": restored, "result": str(out), "report": str(report)}
    if shown := napari_path(result):
        lines["napari"] = f"napari --plugin napari-ome-zarr {shlex.quote(str(shown))}"
        lines["neuroglancer"] = f"chunkflow view {shlex.quote(str(out))}"
    tables = (name for name in ("objects", "branches") if (out / "tables" / f"{name}.parquet").is_file())
    if table := next(tables, ""):
        lines["pandas"] = f'import chunkflow; chunkflow.open_result("{out}").{table}'
    for name, text in lines.items():
        if text:
            console.print(f"{name:<13} {text}", **PLAIN)


def print_plan(console: Console, plan: Plan, reused: Sequence[str], *, source: str) -> None:
    """Passes and arrays of a plan, with what they take; `source` is the input as the user named it."""
    from chunkflow.stages import infer
    from chunkflow.stages.microscope import described

    console.print(
        f"input {source}: {fact(plan.input.shape)} voxels of {numbers(plan.input.scale.voxel_um)} um; "
        f"output {plan.output}: {fact(plan.shape)} voxels of {numbers(plan.scale.voxel_um)} um",
        **PLAIN,
    )
    console.print(f"block {fact(plan.block)}", **PLAIN)
    passes = Table("pass", "units", "core", "halo", "read x", "peak MiB", "")
    for p in plan.to_dict()["passes"]:
        is_merge = p["merge"]
        passes.add_row(
            p["name"],
            str(p["units"]),
            "" if is_merge else fact(p["core"]),
            "" if is_merge else fact(p["halo"]),
            "" if p["read_amplification"] is None else f"{p['read_amplification']:.2f}",
            mib(p["peak_bytes"]),
            "re-used" if p["name"] in reused else "",
        )
    console.print(passes)
    arrays = Table("array", "shape", "type", "chunk", "shard", "MiB", "")
    for a in plan.to_dict()["arrays"]:
        kept = "kept" if a["kept"] else "temporary"
        shard = "" if a["shard"] is None else fact(a["shard"])
        size = mib(a["bytes"])
        arrays.add_row(a["name"], fact(a["shape"]), a["dtype"], fact(a["chunk"]), shard, size, kept)
    console.print(arrays)
    for word, is_kept in (("kept", True), ("temporary", False)):
        total = sum(a.nbytes for a in plan.arrays.values() if a.kept == is_kept)
        console.print(f"arrays {word}: {mib(total)} MiB before compression", **PLAIN)
    disk = plan.disk
    console.print(
        f"disk: at most {mib(disk.peak)} MiB before compression (in {disk.peak_pass}), where temporary arrays are "
        "deleted after the last pass that reads them",
        **PLAIN,
    )
    console.print(
        f"projected peak per worker: {mib(plan.peak_bytes)} MiB of the {mib(plan.memory)} MiB it may take", **PLAIN
    )
    if "psf" in plan.facts:
        console.print(f"PSF: {described(plan.facts['psf'])}", **PLAIN)
    if "network" in plan.facts:
        console.print(f"network: {infer.described(plan.facts['network'])}", **PLAIN)
    for warning in plan.warnings:
        console.print(f"warning: {warning}", **PLAIN)


def print_psf(console: Console, made: MadePsf, tiff: Path, picture: Path) -> None:
    """The facts of a PSF, and where it was written."""
    from chunkflow.run.make_psf import quality_rows

    table = Table("", "value", "source")
    for name, (value, origin) in made.facts.items():
        table.add_row(name, fact(value), origin)
    console.print(table)
    if made.beads is not None:
        quality = Table("beads", "")
        for name, text in quality_rows(made.beads):
            quality.add_row(name, text)
        console.print(quality)
    for warning in made.warnings:
        console.print(f"warning: {warning}", **PLAIN)
    console.print(f"{tiff}: {fact(made.voxels.shape)} voxels of {numbers(made.voxel_um)} um (z y x)", **PLAIN)
    console.print(f"{'picture':<13} {picture}", **PLAIN)
    console.print(f"{'use it':<13} deconvolve: {{psf: {{path: {tiff}}}}}", **PLAIN)


def print_status(console: Console, found: Status) -> None:
    """The passes of a run, done or not, and how to go on."""
    from chunkflow.run.status import commands

    ended = "" if found.code is None else f" (exit code {found.code})"
    console.print(f"{found.output}: {found.state}{ended}", **PLAIN)
    table = Table("pass", "state", "done", "failed", "quarantined", "unknown", "missing")
    for p in found.passes:
        counts = (len(p.failed), len(p.quarantined), p.unknown, p.missing)
        table.add_row(p.name, p.state, f"{p.done} of {p.units}", *(str(count) if count else "" for count in counts))
    if found.passes:
        console.print(table)
    for p in found.passes:
        for word, units in (("failed", p.failed), ("quarantined", p.quarantined)):
            for unit in units:
                console.print(f"{word}: {p.name} block {unit.unit} at {unit.core}: {_why(unit)}", **PLAIN)
    if found.is_mixed:
        console.print(f"mixed: computed on {'; and '.join(found.kinds)}", **PLAIN)
    are_done = all(p.state in ("done", "holes") for p in found.passes)
    if found.passes and found.state not in ("complete", "holes", "running") and are_done:
        console.print("every pass is done; the results are not in their places yet", **PLAIN)
    ways: dict[str, list[str]] = {}
    if found.state not in ("running", "complete", "holes") and found.command:
        ways[found.command] = []
    for state, count, command in commands(found):
        ways.setdefault(command, []).append(f"{count} {state}")
    for command, blocks in ways.items():
        what = f"  # blocks: {', '.join(blocks)}" if blocks else ""
        if command:
            console.print(f"to go on: {command}{what}", **PLAIN)


def _why(unit: SetAside) -> str:
    """Error, attempts and memory of a block that failed, and what became of it."""
    tried = "once" if unit.attempts == 1 else f"{unit.attempts} times"
    peak = "" if unit.peak is None else f", at most {mib(unit.peak)} MiB"
    hole = "; background to what follows" if unit.is_hole else ""
    return f"{unit.error} (tried {tried}{peak}{hole})"


def fact(value: Any) -> str:
    """A value as text: numbers with six digits, lists with commas."""
    if isinstance(value, list | tuple):
        return ", ".join(map(fact, value)) if any(isinstance(v, list | str) for v in value) else numbers(value)
    return "none" if value is None else str(value)


def numbers(values: Sequence[float]) -> str:
    """Numbers one after the other."""
    return " ".join(f"{value:.6g}" for value in values)


def mib(count: int) -> str:
    """Bytes in MiB."""
    return f"{count / 2**20:,.0f}" if count >= 10 * 2**20 else f"{count / 2**20:.1f}"


def counted(count: int, noun: str) -> str:
    """A number and its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
