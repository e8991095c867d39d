"""What `chunkflow verify` found of this result, and whether the faces of blocks can be told from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from chunkflow.report.facts import RunFacts
from chunkflow.report.html import counted, html_table, number, short
from chunkflow.run.verify import stored_verification


def verified(run: RunFacts) -> str:
    """The section; empty where nobody verified this result."""
    found = stored_verification(run.result)
    if found is None:
        return ""
    state = "good" if found["is_equal"] else "bad"
    lines = [f"Voxels compared: {', '.join(f'{number(n)} of {escape(a)}' for a, n in found['voxels'].items())}."]
    if found["objects"]:
        lines.append(
            f"{counted(found['objects'], 'whole object')} looked at again, with "
            f"{counted(found['skeletons'], 'skeleton')}."
        )
    lines += [f"Not compared: {escape(note)}." for note in found["notes"]]
    lines += [escape(difference["text"]) for difference in found["differences"]]
    lines += [
        f"There are {row['ratio']:.2g} times as many {escape(row['what'])} near faces of blocks as elsewhere: "
        "see the part for experts."
        for row in found["seams"]
        if row["is_suspicious"]
    ]
    text = "".join(f"<p>{line}</p>" for line in lines)
    headline = escape(found["sentence"][:1].upper() + found["sentence"][1:])
    return f"<div class='verdict {state}'><p><b>{headline}</b></p>{text}</div>"


def seam_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Densities near the faces of blocks: columns of `SeamCount`."""
    if not rows:
        return ""
    head = ("near faces of blocks", "found", "of", "expected", "density / interior", "p", "")
    cells = [
        [
            escape(row["what"]),
            number(row["near"]),
            number(row["total"]),
            number(row["total"] * row["share"], 3),
            short(row["ratio"], 3),
            short(row["p_value"], 2),
            "<span class='bad-text'>a trace of blocks</span>" if row["is_suspicious"] else "",
        ]
        for row in rows
    ]
    note = (
        "<p class='caption'>Points within two voxels of a face between blocks. p: how often so many or more extreme "
        "would lie there by chance, if blocks had left no trace.</p>"
    )
    return html_table(head, cells, texts={0, 6}) + note
