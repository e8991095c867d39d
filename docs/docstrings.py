"""Docstrings as pages show them: sections become bold words, `name : what it is` a list."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

SECTION = re.compile(r"^(Parameters|Returns|Raises|Attributes)\n-{3,}\n", re.MULTILINE)
ENTRY = re.compile(r"^([\w.{},* ()]+?) : (?=\S)", re.MULTILINE)
LONGEST = 60
"""Characters of a name, or of several; a sentence with a colon is longer."""


def readable(text: str) -> str:
    """The docstring as Markdown."""
    text = SECTION.sub(r"**\1**\n\n", text.split("\nimport chunkflow as cf")[0])
    lines: list[str] = []
    listed = False
    for line in text.split("\n"):
        entry = ENTRY.match(line)
        if entry and len(entry[1]) <= LONGEST:
            lines += ([] if listed else [""]) + [f"- `{entry[1]}`: {line[entry.end() :]}"]
            listed = True
        else:
            listed = listed and bool(line.strip())
            lines.append(line)
    return "\n".join(lines)


class Docstrings(Extension):
    """Rewrites every docstring before mkdocstrings reads it."""

    def on_package(self, *, pkg: Any, **_: Any) -> None:
        rewrite(pkg)


def rewrite(found: Any) -> None:
    """The docstring of an object, and those of what it holds."""
    if found.docstring is not None:
        found.docstring.value = readable(found.docstring.value)
    for member in found.members.values():
        if not member.is_alias:
            rewrite(member)
