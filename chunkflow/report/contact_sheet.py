"""The contact sheet of a batch: one HTML file with a picture of every result, those to look at first.

    failed     what went wrong, in words        Pictures are the brightest voxel along z, 160 pixels wide, with the
    unusual    what is odd about it             borders of objects from above: 6 kB each without noise, so a sheet of
    the rest   in the order of their names      200 has a few MB. All have one contrast (a switch gives each its own),
                                                since a dim image among bright ones is to look dim.

A frame is told by its words and not by its colour alone; borders are drawn in a yellow that red-green blindness leaves
yellow. Beyond `MOST` pictures a sheet shows those to look at and an even choice of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template
from time import time
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from chunkflow.report import charts
from chunkflow.report.html import counted, date, number, short
from chunkflow.report.pictures import gray, image_uri
from chunkflow.run.batch import BatchResult
from chunkflow.run.batch_state import BatchState
from chunkflow.run.batch_summary import common_warnings
from chunkflow.storage.files import write_atomic

FILE = "index.html"
MOST = 400
"""Pictures of a sheet."""
BORDER_RGB = (240, 228, 66)  # Okabe & Ito's yellow
QUALITY = 70

STYLE = """
<style>
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(166px, 1fr)); gap: 12px; margin-top: 8px; }
.shot { margin: 0; border: 2px solid var(--line); border-radius: 6px; padding: 6px; background: var(--panel);
        min-width: 0; }
.shot.failed { border: 4px solid #d55e00; padding: 4px; }
.shot.unusual { border: 4px dashed #e69f00; padding: 4px; }
.shot .picture { position: relative; background: #000; line-height: 0; color: #fff; overflow: hidden; }
.shot .picture img { width: 100%; display: block; image-rendering: pixelated; }
.shot .picture img + img { position: absolute; inset: 0; height: 100%; }
.shot .picture.none { aspect-ratio: 1; display: grid; place-items: center; line-height: 1.3; font-size: 13px;
                      background: #333; padding: 8px; text-align: center; }
.shot figcaption { font-size: 12px; line-height: 1.35; overflow-wrap: anywhere; margin-top: 4px; }
.shot .what { color: var(--soft); }
.shot .say { font-weight: 600; }
.shot.failed .say, .shot.unusual .say { color: var(--bad); }
.shot .scale { white-space: nowrap; box-shadow: 0 0 0 3px #000a; background: #000a; }
.own { visibility: hidden; }
#show-own:checked ~ .sheet .own { visibility: visible; }
#show-own:checked ~ .sheet .same { visibility: hidden; }
#show-outlines:not(:checked) ~ .sheet .outlines { display: none; }
</style>
"""


def write_contact_sheet(batch: BatchResult) -> Path:
    """Write OUT/index.html from the summary of a batch and the pictures beside it, and return its path."""
    table = batch.summary
    state = BatchState(batch.path)
    rows = shown(table)
    pictures = {str(row["result"]): state.picture(str(row["result"])) for row in rows}
    window = common_window([picture for picture in pictures.values() if picture])
    figures = "\n".join(_figure(batch.path, row, pictures[str(row["result"])], window) for row in rows)
    body = (
        STYLE + _numbers(table) + _words(batch, len(rows), window) + f"{_switches()}<div class='sheet'>{figures}</div>"
    )
    template = Template(files("chunkflow.report").joinpath("template.html").read_text(encoding="utf-8"))
    name = escape(batch.path.resolve().name)
    footer = f"Written by chunkflow {version('chunkflow-engine')} on {date(time())}."
    page = template.substitute(title=f"chunkflow: batch {name}", lead=_lead(table), body=body, footer=footer)
    path = batch.path / FILE
    write_atomic(path, page.encode())
    return path


def shown(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows in the order of the sheet: failed, unusual, the rest; an even choice of the rest beyond `MOST`."""
    rows: list[dict[str, Any]] = [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
    bad = [row for row in rows if row["status"] != "done"]
    odd = [row for row in rows if row["status"] == "done" and row["outlier"]]
    rest = [row for row in rows if row["status"] == "done" and not row["outlier"]]
    room = max(0, MOST - len(bad) - len(odd))
    if len(rest) > room:
        rest = [rest[k] for k in np.linspace(0, len(rest) - 1, room).round().astype(int)]
    return [*bad[:MOST], *odd[: max(0, MOST - len(bad))], *rest]


def common_window(pictures: Sequence[dict[str, NDArray[Any]]]) -> tuple[float, float]:
    """Values shown as black and white in all pictures: the middle of what each would have alone."""
    windows = np.array([picture["window"] for picture in pictures if "window" in picture])
    if not len(windows):
        return 0.0, 1.0
    low, high = (float(value) for value in np.median(windows, axis=0))
    return low, high if high > low else low + 1


def _lead(table: pd.DataFrame) -> str:
    failed, odd = int((table["status"] != "done").sum()), int((table["outlier"] != "").sum())
    words = [counted(len(table), "image" if "t" not in table else "time point")]
    words.append(f"{number(failed)} failed" if failed else "none failed")
    words.append(f"{number(odd)} unusual" if odd else "none unusual")
    return ", ".join(words) + "."


def _numbers(table: pd.DataFrame) -> str:
    tiles: list[tuple[str, float]] = [("images", len(table)), ("failed", int((table["status"] != "done").sum()))]
    tiles += [("unusual", int((table["outlier"] != "").sum()))]
    if (table["condition"] != "").any():
        tiles.append(("conditions", table.loc[table["condition"] != "", "condition"].nunique()))
    for column, words in (("objects", "objects in all"), ("length_um", "µm of length in all")):
        if column in table:
            tiles.append((words, float(table[column].sum())))
    cells = "".join(f"<div><b>{number(value)}</b><span>{escape(words)}</span></div>" for words, value in tiles)
    return f"<div class='numbers'>{cells}</div>"


def _words(batch: BatchResult, count: int, window: tuple[float, float]) -> str:
    table = batch.summary
    text = "".join(
        f"<div class='warning'>{escape(warning)}</div>" for warning in [*batch.warnings, *common_warnings(table)]
    )
    if batch.threshold is not None:
        text += f"<p>All images share the threshold {short(batch.threshold, 5)}.</p>"
    left = len(table) - count
    more = f" {number(left)} more are in the table; these are those to look at and an even choice." if left else ""
    return text + (
        "<p>Every number is in <a href='summary.csv'>summary.csv</a>. Pictures are the brightest voxel along z, with "
        f"the borders of objects seen from above.{more} Unusual is what lies more than 3.5 robust standard deviations "
        "from the median of its condition (of all images where it has fewer than five), on a logarithmic scale.</p>"
        f"<p class='caption'>Black is {short(window[0])}, white {short(window[1])} and above, the same for all.</p>"
    )


def _switches() -> str:
    return (
        "<input class='switch' type='checkbox' id='show-outlines' checked><label for='show-outlines'>borders</label>"
        "<input class='switch' type='checkbox' id='show-own'><label for='show-own'>each its own contrast</label>"
    )


def _figure(out: Path, row: dict[str, Any], picture: dict[str, NDArray[Any]], window: tuple[float, float]) -> str:
    name = str(row["result"])
    kind = "failed" if row["status"] != "done" else "unusual" if row["outlier"] else "fine"
    there = next((f for f in (f"{name}/report.html", name) if (out / f).exists()), "")
    title = escape(str(row["file"])) + (f", t {int(row['t'])}" if pd.notna(row.get("t", np.nan)) else "")
    head = f"<a href='{quote(there)}'>{title}</a>" if there else title
    said = {"failed": f"{row['status']}: {row['error']}", "unusual": f"unusual: {row['outlier']}"}.get(kind, "")
    flagged = " <span class='say'>saturated</span>" if row.get("saturated") is True else ""
    what = " · ".join([*_sample(row), *_counts(row)])
    shown_as = (
        _picture(picture, window) if picture and kind != "failed" else "<div class='picture none'>no result</div>"
    )
    say = f"<div class='say'>{escape(said)}</div>" if said else ""
    caption = f"<figcaption>{head}{say}<div class='what'>{what}{flagged}</div></figcaption>"
    return f"<figure class='shot {kind}'>{shown_as}{caption}</figure>"


def _sample(row: dict[str, Any]) -> Iterable[str]:
    words = " ".join(str(row[key]) for key in ("condition", "replicate") if row[key])
    return [escape(words)] if words else []


def _counts(row: dict[str, Any]) -> Iterable[str]:
    """What was counted, in words."""

    def has(name: str) -> bool:
        return name in row and pd.notna(row[name])

    found = [counted(row["objects"], "object")] if has("objects") else []
    found += [f"{short(row['length_um'])} µm"] if has("length_um") else []
    found += [counted(row["loops"], "loop")] if has("loops") and row["loops"] else []
    return [escape(text).replace(" ", "&nbsp;") for text in found]


def _picture(picture: dict[str, NDArray[Any]], window: tuple[float, float]) -> str:
    layers = []
    if "gray" in picture:
        own = tuple(float(value) for value in picture["window"])
        low, high = own if own[1] > own[0] else (own[0], own[0] + 1)
        layers.append(("same", _jpeg(gray(picture["gray"], window))))
        layers.append(("own", _jpeg(gray(picture["gray"], (low, high)))))
    if "outlines" in picture:
        layers.append(("outlines", _png(picture["outlines"])))
    if not layers:
        return "<div class='picture none'>no array was saved</div>"
    if layers[0][0] == "outlines":
        layers.insert(0, ("same", _jpeg(np.zeros(picture["outlines"].shape, np.uint8))))
    images = "".join(f"<img class='{name}' src='{uri}' alt='{name}'>" for name, uri in layers)
    width = next(iter(picture[name] for name in ("gray", "outlines") if name in picture)).shape[1]
    return f"<div class='picture'>{images}{_scale_bar(width, float(picture['pixel_um'][0]))}</div>"


def _scale_bar(width_px: int, pixel_um: float) -> str:
    width_um = width_px * pixel_um
    length = charts.round_length(width_um / 4)
    return f"<span class='scale' style='width: {100 * length / width_um:.2f}%'>{charts.tick_text(length)} µm</span>"


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    return image_uri(Image.fromarray(pixels), "JPEG", quality=QUALITY)


def _png(mask: NDArray[Any]) -> str:
    """Borders on nothing, with a palette of two."""
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette([0, 0, 0, *BORDER_RGB])
    return image_uri(image, "PNG", transparency=0, bits=1, optimize=True)
