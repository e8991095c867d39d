"""A picture that a viewer made, in the report.

    run/viewer-DIGEST.png   -->  between two comments of report.html, as a data URI

DIGEST is that of the fingerprints of the run, so a picture of earlier settings is not shown. A report that is written
again has the picture; one that is there gets it without being written again, since it may hold what only its writer
knew (a comparison with the truth).
"""

from __future__ import annotations

import json
from hashlib import sha256
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

from chunkflow.errors import InputNotFoundError, UsageError
from chunkflow.report.facts import RunFacts
from chunkflow.report.pictures import image_uri
from chunkflow.run.places import run_folder
from chunkflow.run.result import open_result
from chunkflow.storage.files import write_atomic
from chunkflow.storage.stores import ObjectPath, Place, place_of

BEGIN, END = "<!-- picture of a viewer -->", "<!-- end of it -->"
COLORS = 256
"""Of the picture in the page: a third of the bytes, and the same to the eye."""


def viewer_place(run: RunFacts) -> str:
    """Where the picture is in the page, with the picture if there is one."""
    path = _picture_path(run)
    return f"{BEGIN}{_section(run, path.read_bytes()) if path.is_file() else ''}{END}"


def put_picture(output: str | Place, png: bytes) -> Place:
    """Keep a picture of a result for its reports, and put it into the one that is there; returns that one's path.

    Raises
    ------
    InputNotFoundError : the folder holds no run, or no report.
    UsageError : it lies on a web server.
    """
    run, report = _run_with_report(output)
    path = _picture_path(run)
    if isinstance(path, Path):  # in a bucket all objects of the run would be listed for it
        for other in path.parent.glob("viewer-*.png"):
            other.unlink()
    write_atomic(path, png)
    text = report.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        write_atomic(report, (before + viewer_place(run) + after).encode())
    return report


def check_report(output: str | Place) -> None:
    """Refuse a folder that has no report to put a picture into.

    Raises
    ------
    InputNotFoundError : the folder holds no run, or no report.
    UsageError : it lies on a web server.
    """
    _run_with_report(output)


def _run_with_report(output: str | Place) -> tuple[RunFacts, Place]:
    place = place_of(output)
    if isinstance(place, ObjectPath) and place.is_read_only:
        raise UsageError(f"{place} cannot be written to", "Copy the folder, or write a picture: --screenshot FILE.png")
    run = RunFacts(open_result(place))
    report = run.result.path / "report.html"
    if not report.is_file():
        raise InputNotFoundError(f"{report} does not exist", "Run the same command again, which writes it")
    return run, report


def _picture_path(run: RunFacts) -> Place:
    digest = sha256(json.dumps(run.stored["fingerprints"], sort_keys=True).encode()).hexdigest()
    return run_folder(run.result.path) / f"viewer-{digest[:16]}.png"


def _section(run: RunFacts, png: bytes) -> str:
    with Image.open(BytesIO(png)) as picture:
        smaller = picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
        width = picture.width
    source = image_uri(smaller, "PNG", optimize=True)
    return (
        f"<section><h2>Seen in Neuroglancer</h2><img src='{source}' alt='{escape(run.name)} in Neuroglancer' "
        f"style='width: {width}px; max-width: 100%; border-radius: 8px'>"
        "<p class='caption'>Image, objects in their colours, skeletons and nodes (red: junctions, yellow: ends). "
        f"To look around: <code>chunkflow view {escape(run.result.path.name)}</code>.</p></section>"
    )
