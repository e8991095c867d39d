"""The sections of the report that say where a result comes from and how to go on from it.

    what_ran     input, machine, libraries; stages with every parameter
    reproduce    the pipeline as a file that does the same again
    how_to_open  lines for napari, Neuroglancer, Python and pandas

All of it comes from the plan and from the starts and ends in the journal.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

import yaml

from chunkflow.plan.descriptions import one_line
from chunkflow.plan.options import InputOptions
from chunkflow.plan.pipeline import SAVED
from chunkflow.report.facts import RunFacts
from chunkflow.report.html import date, duration, html_table, number, percent, short, sides
from chunkflow.run.result import Result
from chunkflow.stages import infer
from chunkflow.storage.stores import Place


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
        "read as": _read_as(run.pipeline["input"]),
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
        "settings": f"SHA-256 {digest_of_settings(run)[:16]}... of the stages and their parameters",
        "to cite": f"chunkflow {run.stored['chunkflow']} and the papers listed under Methods"
        if run.is_complete
        else "",
    }
    rows = [[escape(name), escape(value)] for name, value in facts.items() if value]
    stages = [[escape(key), escape(_parameters(values)) or "(no parameters)"] for key, values in run.stages.items()]
    return (
        html_table((), rows, texts={0, 1}, kind="facts")
        + "<h3>Stages and their parameters</h3>"
        + html_table((), stages, texts={0, 1}, kind="facts")
    )


def _read_as(options: Mapping[str, Any]) -> str:
    """What was said of the input beyond its path, where it is not what is taken when nothing is said."""
    plain = asdict(InputOptions()) | {"path": options.get("path"), "expansion": options.get("expansion")}
    return _parameters({key: value for key, value in options.items() if value != plain.get(key)})


def digest_of_settings(run: RunFacts) -> str:
    """SHA-256 of the stages with every parameter: alike for runs that were asked the same."""
    return sha256(json.dumps(run.pipeline["stages"], sort_keys=True).encode()).hexdigest()


def _network(facts: Mapping[str, Any] | None) -> str:
    """Which network it was, and how it was applied."""
    return "" if facts is None else f"{facts['path']} (SHA-256 {facts['digest']}): {infer.described(facts)}"


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
    return one_line(value)


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


def napari_path(result: Result) -> Place | None:
    """What napari-ome-zarr opens of a result: the image with its labels, the labels alone, or the probability."""
    image = result.path / "image.ome.zarr"
    if result.image is not None:
        return image
    if any(getattr(result, name) is not None for name in ("labels", "mask", "classes", "skeleton")):
        return image / "labels"
    return None if result.probability is None else result.path / "probability.ome.zarr"


def how_to_open(run: RunFacts) -> str:
    """Lines to copy for every viewer that can show what was saved."""
    out = run.result.path.resolve()
    parts = []
    if shown := napari_path(run.result):
        command = f"napari --plugin napari-ome-zarr {shlex.quote(str(shown.resolve()))}"
        parts.append(("In napari", "A shell line; needs napari and napari-ome-zarr.", command))
    layers = [name for name in SAVED if getattr(run.result, name) is not None]
    if layers:
        command = f"chunkflow view {shlex.quote(str(out))}"
        needs = "A shell line; needs neuroglancer. With --napari the same in napari, with the tables."
        parts.append(("In Neuroglancer", needs, command))
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
