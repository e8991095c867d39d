"""The report of a training: scores, curves, examples and every parameter, in one file that opens anywhere.

numbers     the score that decided, steps, time
curves      the loss, its mean over a fiftieth of the steps; every score of every validation
examples    the plane with most foreground of boxes that were kept for validation: image, target, prediction
facts       data with digests, network, parameters, versions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from chunkflow.report import pictures
from chunkflow.report.charts import line
from chunkflow.report.html import duration, html_table, number, short, sides
from chunkflow.run.validation import LOWER_IS_BETTER, Example
from chunkflow.storage.files import write_atomic

SHOWN = 4
"""Examples."""
PARTS = 50
"""Of a training that a point of the loss curve is the mean of."""
CHANNELS = 3
"""Of an output that are shown, at most."""

Predicted = tuple[Example, NDArray[np.float32]]


def write_training_report(folder: str | Path, record: Mapping[str, Any], examples: Sequence[Predicted]) -> Path:
    """Write report.html into the folder of a trained network.

    record : the content of training.json
    examples : boxes kept for validation, with their outputs (K, Z, Y, X)
    """
    body = "".join(
        (
            _numbers(record),
            "<h2>Curves</h2>",
            _curves(record),
            _examples(examples, record["training"]["target"]["kind"]),
            "<h2>Data</h2>",
            _data(record),
            "<h2>Training</h2>",
            "<p>Save this as <code>train.yaml</code>; <code>chunkflow train train.yaml -o MODEL</code> trains the "
            f"same network again.</p><pre>{escape(_as_yaml(record['training']))}</pre>",
        )
    )
    template = Template(files("chunkflow.report").joinpath("template.html").read_text(encoding="utf-8"))
    path = Path(folder) / "report.html"
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    page = template.substitute(
        title=escape(f"Training of {Path(folder).name}"),
        lead=escape(_lead(record)),
        body=body,
        footer=escape(f"{versions}; {record['device']}, {record['threads']} threads"),
    )
    write_atomic(path, page.encode())
    return path


def _lead(record: Mapping[str, Any]) -> str:
    target = record["training"]["target"]["kind"]
    ends = {
        "steps": "all steps were done",
        "patience": "it ended early, since no validation was better for long",
    }
    return (
        f"A network of {number(record['parameters'])} parameters for {target}, trained for {number(record['step'])} "
        f"steps; {ends.get(record['ended'], record['ended'])}."
    )


def _numbers(record: Mapping[str, Any]) -> str:
    best = {name: value for name, value in record["best"].items() if name != "step"}
    shown = [(short(value), name.replace("_", " ")) for name, value in best.items()][:6]
    if best:
        shown.append((number(record["best"]["step"]), "step that is kept"))
    shown.append((duration(record["seconds"]), "in the last session"))
    cells = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in shown)
    return f"<div class='numbers'>{cells}</div>"


def _curves(record: Mapping[str, Any]) -> str:
    losses = np.array(record["losses"], np.float64)
    best = record["best"].get("step")
    charts = [_loss_chart(losses)]
    steps = [int(scores["step"]) for scores in record["validations"]]
    for name in record["validations"][0] if steps else ():
        if name == "step":
            continue
        values = np.full(max(steps), np.nan)
        for scores in record["validations"]:
            values[int(scores["step"]) - 1] = scores[name]
        words = name.replace("_", " ") + (" (lower is better)" if name in LOWER_IS_BETTER else "")
        charts.append(line(values, first=1, x_label="step", y_label=words, marker=best, marker_label="kept"))
    return f"<div class='charts'>{''.join(f'<div>{chart}</div>' for chart in charts if chart)}</div>"


def _loss_chart(losses: NDArray[np.float64]) -> str:
    """The loss as a mean over parts of the steps, each at the middle of its part."""
    width = max(1, len(losses) // PARTS)
    values = np.full(len(losses), np.nan)
    for first in range(0, len(losses) - width + 1, width):
        values[first + width // 2] = losses[first : first + width].mean()
    return line(values, first=1, x_label="step", y_label="loss")


def _examples(examples: Sequence[Predicted], kind: str) -> str:
    if not examples:
        return ""
    rows = []
    for example, outputs in examples[:SHOWN]:
        plane = _fullest(example)
        images = [("image", _stretched(example.image[0, plane]))]
        for name, values in (("target", example.target), ("prediction", outputs)):
            images += [(f"{name}{which}", _picture(p, kind)) for which, p in _planes(values, plane, kind)]
        cells = "".join(
            f"<figure style='margin:0'><img src='{pictures.png_uri(pixels)}' alt='{escape(name)}' "
            f"style='width:100%;image-rendering:pixelated'><figcaption class='caption'>{escape(name)}</figcaption>"
            "</figure>"
            for name, pixels in images
        )
        columns = f"grid-template-columns: repeat({len(images)}, minmax(0, 1fr))"
        rows.append(
            f"<p class='caption'>{escape(example.name)}, plane {plane}</p>"
            f"<div style='display:grid; gap:8px; {columns}'>{cells}</div>"
        )
    return "<h2>Examples that it was not trained on</h2>" + "".join(rows)


def _fullest(example: Example) -> int:
    """The plane with most in its target; the middle one of an image."""
    if example.target.dtype.kind == "f" and example.target.min() < 0:
        return int(example.image.shape[1] // 2)
    return int(np.argmax((example.target[0] > 0).sum(axis=(1, 2))))


def _planes(values: NDArray[Any], plane: int, kind: str) -> list[tuple[str, NDArray[Any]]]:
    """A plane of each channel that is shown, with what tells it from the others."""
    if kind == "classes":
        labels = values[0, plane] if len(values) == 1 else values[:, plane].argmax(0)
        return [("", labels)]
    return [(f" {k + 1}" if len(values) > 1 else "", values[k, plane]) for k in range(min(CHANNELS, len(values)))]


def _picture(values: NDArray[Any], kind: str) -> pictures.Pixels:
    if kind == "classes":
        return np.where(values[..., None] > 0, pictures.label_colors(values), 0).astype(np.uint8)
    if kind in ("distance", "image"):
        return _stretched(values)
    return pictures.gray(values, (0.0, 1.0))


def _stretched(values: NDArray[Any]) -> pictures.Pixels:
    return pictures.gray(values, pictures.contrast_window([values]))


def _data(record: Mapping[str, Any]) -> str:
    rows = [[escape(name), f"<code>{escape(digest)}</code>"] for name, digest in record["data"].items()]
    voxel = sides(record["usage"]["voxel_um"])
    return html_table(("array", "identity"), rows, texts={0, 1}) + f"<p>Voxels of {voxel} µm (z × y × x).</p>"


def _as_yaml(training: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(training), sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
