"""Which condition and replicate a file belongs to: from a table, or from the folders it lies in.

    samples.csv                           pattern  {condition}/{replicate}/*.tif
      file,condition,replicate              ctrl/day1/a.tif   ->  ctrl, day1
      a.tif,ctrl,day1                       drug/day1/b.tif   ->  drug, day1

Files are named relative to the folder that a batch was given, with or without their endings. A replicate belongs to
its condition: day1 of ctrl and day1 of drug are two replicates, unless a comparison is told that they are pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from chunkflow.errors import UsageError, nearest

ENDINGS = (".ome.tif", ".ome.tiff", ".ome.zarr", ".tif", ".tiff", ".zarr")
KEYS = ("condition", "replicate")

_FORMAT = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,5}$")
_PARTS = re.compile(r"\*\*/|\*\*|\*|\?|\{[^{}]*\}")
_GROUPS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of a file; "" where nothing is said."""

    condition: str = ""
    replicate: str = ""


def without_ending(name: str) -> str:
    """A file's name without what says its format: `a/b.ome.tif` is `a/b`."""
    low = name.lower()
    other = _FORMAT.search(name)
    known = next((ending for ending in ENDINGS if low.endswith(ending)), other[0] if other else "")
    return name[: len(name) - len(known)]


def from_table(rows: Sequence[Mapping[str, str]], files: Sequence[str]) -> tuple[dict[str, Sample], list[str]]:
    """The samples of files from the rows of a table, and sentences on what did not match.

    Parameters
    ----------
    rows : with the keys file and condition, and mostly replicate. `file` is a path as in `files`, the same without its
        ending, or the end of such a path where only one file ends so.

    Raises
    ------
    UsageError : a column is missing, a row names several files, or two rows name one.
    """
    found: dict[str, Sample] = {}
    warnings: list[str] = []
    for number, row in enumerate(rows, 2):
        for key in ("file", "condition"):
            if row.get(key) is None:
                raise UsageError(
                    f"the table of samples has no {key} in line {number}",
                    "It needs the columns file,condition,replicate",
                )
        named = row["file"].strip()
        matches = _matches(named, files)
        if not matches:
            warnings.append(f"samples: line {number} names {named}, which is no file of this batch")
        elif len(matches) > 1:
            raise UsageError(
                f"samples: line {number} names {named}, which may be {' or '.join(matches[:4])}",
                "Write more of its folders",
            )
        elif matches[0] in found:
            raise UsageError(f"samples: line {number} names {matches[0]} a second time", "Keep one line per file")
        else:
            found[matches[0]] = Sample(row["condition"].strip(), (row.get("replicate") or "").strip())
    missing = [file for file in files if file not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        warnings.append(f"samples: nothing is said of {missing[0]}{more}: no condition")
    return found, warnings


def _matches(named: str, files: Iterable[str]) -> list[str]:
    """Files that a name may mean: itself, else the one without its ending, else those that end with it."""
    listed = list(files)
    wanted = PurePosixPath(named).as_posix()
    if wanted in listed:
        return [wanted]
    bare = [file for file in listed if without_ending(file) == wanted]
    if bare:
        return bare
    return [f for f in listed if f.endswith(f"/{wanted}") or without_ending(f).endswith(f"/{wanted}")]


def from_pattern(pattern: str, files: Sequence[str]) -> tuple[dict[str, Sample], list[str]]:
    """The samples of files from a pattern of their paths, and sentences on what did not match.

    Parameters
    ----------
    pattern : such as `{condition}/{replicate}/*.tif`: what stands in braces is taken from the path and reaches no
        farther than the next slash; `*` is anything but a slash, `**` anything.

    Raises
    ------
    UsageError : the pattern has no {condition}, or other braces; or it fits no file.
    """
    rule = _compiled(pattern)
    fits = {file: rule.fullmatch(file) for file in files}
    found = {file: Sample(**fit.groupdict()) for file, fit in fits.items() if fit is not None}
    if not found and files:
        raise UsageError(
            f"the conditions {pattern!r} fit none of {len(files)} files, such as {files[0]}",
            "Paths are relative to the folder that holds all of them",
        )
    missing = [file for file in files if file not in found]
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return found, [f"conditions {pattern!r} do not fit {missing[0]}{more}: no condition"] if missing else []


def _compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression with named groups."""
    text, at, seen = "", 0, []
    for part in _PARTS.finditer(pattern):
        text += re.escape(pattern[at : part.start()])
        at = part.end()
        if part[0] in _GROUPS:
            text += _GROUPS[part[0]]
            continue
        key = part[0][1:-1]
        if key not in KEYS:
            raise UsageError(f"conditions {pattern!r} have {part[0]}", nearest(key, KEYS))
        if key in seen:
            raise UsageError(f"conditions {pattern!r} have {part[0]} twice", "Keep one, and write * for the other")
        seen.append(key)
        text += f"(?P<{key}>[^/]+?)"
    if "condition" not in seen:
        raise UsageError(f"conditions {pattern!r} have no {{condition}}", "Write {condition}/{replicate}/*.tif")
    return re.compile(text + re.escape(pattern[at:]))
