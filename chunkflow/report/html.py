"""Numbers as people write them, and tables of them, as HTML.

    1234567 -> 1,234,567    0.0812345 -> 0.08123    (0.3, 0.1, 0.1) -> 0.3 × 0.1 × 0.1    None, NaN -> (empty)

What is called words or text is escaped here; cells and what the functions return are HTML already. A table is one
string, so this is for the first rows of a table, not for 10^6 of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from math import floor, isfinite, log10
from typing import Any

import numpy as np
import pandas as pd


def number(value: Any, digits: int = 4, *, sign: bool = False) -> str:
    """A number as people write it: whole numbers whole, others to so many digits; thousands set apart by commas."""
    if value is None or pd.isna(value):
        return ""
    if not isfinite(float(value)):
        return "–"
    plus = "+" if sign and value else ""
    if float(value) == round(float(value)) and abs(float(value)) < 1e15:
        return f"{int(value):{plus},}"
    magnitude = floor(log10(abs(float(value)))) if isfinite(float(value)) else 0
    if not -5 < magnitude < 15:
        return f"{float(value):{plus}.{digits - 1}e}"
    return f"{float(value):{plus},.{max(0, digits - 1 - magnitude)}f}"


def short(value: Any, digits: int = 4, *, sign: bool = False) -> str:
    """A number for a sentence: without zeros at the end."""
    text = number(value, digits, sign=sign)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def counted(count: float, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def percent(value: float | None) -> str:
    """A share as a number of percent, empty where there is none."""
    return "" if value is None else f"{100 * value:.3g}" if isfinite(value) else "∞"


def sides(values: Iterable[float]) -> str:
    """Sides of a box, or of a voxel."""
    return " × ".join(short(value) for value in values)


def date(seconds: float) -> str:
    """Local time from seconds since 1970."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def duration(seconds: float) -> str:
    """In the two units that matter: hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(max(0.0, seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest:.0f} s" if minutes else f"{rest:.1f} s"


def html_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    texts: Iterable[int] = (),
    kind: str = "",
    is_html: bool = False,
) -> str:
    """A table whose cells are HTML already. `texts` are the columns of words, the others hold numbers."""
    words = set(texts)

    def row(cells: Sequence[str], tag: str) -> str:
        marked = (f"<{tag}{' class=text' if i in words else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{''.join(marked)}</tr>"

    top = f"<thead>{row(head if is_html else [escape(text) for text in head], 'th')}</thead>" if head else ""
    body = "\n".join(row(cells, "td") for cells in rows)
    return f"<div class='scroll'><table class='{kind}'>{top}<tbody>{body}</tbody></table></div>"


def table_heading(words: str, unit: str) -> str:
    """The head of a column, with its unit in small."""
    return escape(words) + (f"<small>{escape(unit)}</small>" if unit else "")


def table_cell(value: Any, column: Any) -> str:
    """A value of a table; ids and nodes are names, so they get no commas."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "<span class='bad-text'>no</span>" if column == "certified" else "no"
    if str(column).endswith("_id") or str(column).startswith("node_"):
        return str(int(value))
    return number(value)
