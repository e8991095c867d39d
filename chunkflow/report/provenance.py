"""The sections of the report that say where a result comes from and how to go on from it.

    what_ran     input, machine, libraries; stages with every parameter
    passes       blocks, seconds and memory of each pass
    reproduce    the pipeline as a file that does the same again
    how_to_open  lines for napari, Neuroglancer, Python and pandas

All of it comes from the plan and the journal, which is held in memory as the run itself holds it: an entry per block
and pass.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from chunkflow.plan.pipeline import SAVED
from chunkflow.report.facts import RunFacts
from chunkflow.report.html import counted, date, duration, html_table, number, percent, short, sides
from chunkflow.stages import infer


def what_ran(run: RunFacts) -> str:
    """Input, result, machine and versions, then the stages with every parameter that has a value."""
    source, output = run.plan["input"], run.plan["output"]
    device, _, libraries = str(run.stored["kind"]).partition("; ")
    start = run.journal.starts[-1] if run.journal.starts else {}
    end = float(run.journal.ended["time"]) if run.journal.ended else run.written
    limits = run.values("range")
    facts = {
        "input": str(run.input_path),
        "input array": f"{sides(source['shape'])} voxels (z × y × x), {source['dtype']}",
        "input voxel": f"{sides(source['voxel_um'])} µm",
        "expansion": "" if run.expansion == 1 else f"{short(run.expansion)} times; the result is in µm before it",
        "values": "" if limits is None else _value_facts(limits),
        "missing chunks": number(source["missing_chunks"]) if source["missing_chunks"] else "",
        "result": f"{sides(output['shape'])} voxels of {sides(output['voxel_um'])} µm",
        "output": output["path"],
        "network": _network(run.plan["facts"].get("network")),
        "blocks": f"{sides(run.plan['block'])} voxels",
        "device": device,
        "machine": str(start.get("host", "")),
        "command": str(start.get("command", "")),
        "started": date(float(start["time"])) if start else "",
        "ended": date(end) + (f", after {duration(end - float(start['time']))}" if start else ""),
        "runs in this folder": number(len(run.journal.starts)) if len(run.journal.starts) > 1 else "",
        "chunkflow": str(run.stored["chunkflow"]),
        "libraries": f"python {run.stored['python']}; {libraries}",
    }
    rows = [[escape(name), escape(value)] for name, value in facts.items() if value]
    stages = [[escape(key), escape(_parameters(values)) or "(no parameters)"] for key, values in run.stages.items()]
    return (
        html_table((), rows, texts={0, 1}, kind="facts")
        + "<h3>Stages and their parameters</h3>"
        + html_table((), stages, texts={0, 1}, kind="facts")
    )


def _network(facts: Mapping[str, Any] | None) -> str:
    """Which network it was, and how it was applied."""
    return "" if facts is None else f"{facts['path']} (SHA-256 {facts['digest'][:16]}...): {infer.described(facts)}"


def _value_facts(limits: Mapping[str, Any]) -> str:
    low, high, common = (short(float(limits[name][0])) for name in ("low", "high", "common"))
    share = int(limits["common_count"][0]) / max(1, int(limits["count"][0]))
    return (
        f"{low} to {high}; most common {common}, in {'at least ' if share < 1 else ''}{percent(share)} % of the voxels"
    )


def _parameters(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {_flow(value)}" for key, value in values.items() if value is not None)


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + _parameters(value) + "}"
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...").strip()


def passes(run: RunFacts) -> str:
    """What each pass did and cost; seconds and memory are those that the units reported."""
    head = ("pass", "blocks", "halo, voxels", "read / written", "seconds", "peak memory, MiB")
    rows, workers = [], set()
    for p in run.plan["passes"]:
        units = list(run.state(p["name"]).done.values())
        workers |= {unit["worker"] for unit in units if "worker" in unit}
        seconds = sum(float(unit.get("seconds", 0)) for unit in units)
        peak = max((int(unit.get("peak", 0)) for unit in units), default=0)
        amplification = p["read_amplification"]
        rows.append(
            [
                escape(p["name"]),
                number(p["units"]),
                sides(p["halo"]) if any(p["halo"]) else "",
                "" if amplification is None else number(amplification, 3),
                f"{seconds:,.2f}",
                number(round(peak / 2**20)) if peak else "",
            ]
        )
    projected = run.plan["peak_bytes_per_worker"] / 2**20
    text = (
        f"<p>Seconds are summed over {counted(len(workers), 'worker process', 'worker processes')}; peak memory is "
        "the most that one process had held by the end of the pass. The plan projected at most "
        f"{number(round(projected))} MiB.</p>"
    )
    return text + html_table(head, rows, texts={0})


def reproduce(run: RunFacts) -> str:
    """The pipeline as a file that does the same again: everything spelt out."""
    content = _with_whole_paths(run.pipeline)
    content["input"]["path"] = content["input"]["path"] or str(run.input_path.resolve())
    content["output"]["path"] = str(run.result.path.resolve())
    content["block"] = list(run.plan["block"])
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
    return (
        "<p>Save this as <code>pipeline.yaml</code>; <code>chunkflow run pipeline.yaml</code> then does the same. "
        f"Every default is spelt out.</p><pre id='pipeline'>{escape(text)}</pre>"
    )


def _with_whole_paths(value: Any, key: str = "") -> Any:
    """A copy in which the paths hold wherever the file is put."""
    if isinstance(value, Mapping):
        return {name: _with_whole_paths(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_whole_paths(inner) for inner in value]
    is_path = key in ("path", "mask") and isinstance(value, str) and "://" not in value
    return str(Path(value).resolve()) if is_path else value


def how_to_open(run: RunFacts) -> str:
    """Lines to copy for every viewer that can show what was saved."""
    out = run.result.path.resolve()
    parts = []
    if (out / "image.ome.zarr").is_dir():
        command = f"napari --plugin napari-ome-zarr {shlex.quote(str(out / 'image.ome.zarr'))}"
        parts.append(("In napari", "A shell line; needs napari and napari-ome-zarr.", command))
    layers = [name for name in SAVED if getattr(run.result, name) is not None]
    if layers:
        parts.append(("In Neuroglancer", "Python; prints a link for the browser.", _neuroglancer(out, layers)))
    names = [name for name in ("objects", "branches", "nodes") if run.table(name) is not None]
    python = [f"result = cf.open_result({str(out)!r})"]
    python += [f"result.{name}  # a pandas.DataFrame" for name in names]
    python += ["result.graph  # a networkx.MultiGraph"] if "branches" in names else []
    python += [f"result.{name}[0]  # the first plane, a numpy array" for name in layers[:1]]
    parts.append(("In Python", "", "\n".join(["import chunkflow as cf", "", *python])))
    if names:
        tables = [f"{name} = pd.read_parquet({str(out / 'tables' / (name + '.parquet'))!r})" for name in names]
        parts.append(("With pandas alone", "", "\n".join(["import pandas as pd", "", *tables])))
    return "".join(
        f"<h3>{escape(title)}</h3>{f'<p>{escape(text)}</p>' if text else ''}<pre>{escape(code)}</pre>"
        for title, text, code in parts
    )


def _neuroglancer(out: Path, layers: Sequence[str]) -> str:
    lines = [
        "import chunkflow as cf",
        "import neuroglancer",
        "",
        f"result = cf.open_result({str(out)!r})",
        f"voxel_um = result.{layers[0]}.voxel_um",
        "space = neuroglancer.CoordinateSpace(names=['z', 'y', 'x'], units='um', scales=voxel_um)",
        "viewer = neuroglancer.Viewer()",
        "with viewer.txn() as state:",
    ]
    for name in layers:
        kind = "ImageLayer" if name in ("image", "probability") else "SegmentationLayer"
        volume = f"neuroglancer.LocalVolume(result.{name}.array, space)"
        lines.append(f"    state.layers['{name}'] = neuroglancer.{kind}(source={volume})")
    return "\n".join([*lines, "print(viewer)"])
