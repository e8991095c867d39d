"""The pipeline file as a JSON schema, for editors that complete keys and underline what is misspelt.

Made from the dataclasses that read the file, so that both know the same keys, words and types. What depends on several
values at once (a threshold beside its method) is checked when the file is read, and not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from inspect import getdoc
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pydantic

from chunkflow.plan.pipeline import READ, STAGES, InputOptions, OutputOptions
from chunkflow.plan.presets import preset_names

URL = "https://json-schema.org/draft/2020-12/schema"
NAME = "chunkflow.schema.json"
"""The file that pipelines which `chunkflow init` writes point editors to."""

Schema = dict[str, Any]


def pipeline_schema() -> Schema:
    """The schema as JSON values."""
    return {
        "$schema": URL,
        "title": "chunkflow pipeline",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "version": {"const": 1},
            "extends": {"enum": preset_names(), "description": "The preset that this file builds on."},
            "remove": {"type": "array", "items": {"enum": list(STAGES)}, "description": "Stages of it to leave out."},
            "input": _of_dataclass(InputOptions),
            "output": _of_dataclass(OutputOptions),
            "block": {"anyOf": [{"const": "auto"}, _of_hint(tuple[int, int, int])]},
            "stages": {"type": "array", "items": {"anyOf": _stages()}},
        },
        "anyOf": [{"required": ["version", "stages"]}, {"required": ["extends"]}],
    }


def _stages() -> list[Schema]:
    """A stage by its name alone, or with its parameters."""
    bare: Schema = {"enum": list(STAGES)}
    return [
        bare,
        *(
            {
                "type": "object",
                "additionalProperties": False,
                "required": [key],
                "properties": {key: {"anyOf": [_of_dataclass(stage), {"type": "null"}]}},
            }
            for key, stage in STAGES.items()
        ),
    ]


def _of_dataclass(kind: type[Any]) -> Schema:
    """Keys of a parameter dataclass, each with its type and its words. None is required: presets fill in the rest."""
    hints, said = get_type_hints(kind), _described(kind)
    properties: dict[str, Schema] = {}
    for f in fields(kind):
        if f.name in READ:
            continue
        key = f.name.removesuffix("_")
        properties[key] = _of_hint(hints[f.name]) | ({"description": said[f.name]} if f.name in said else {})
    found: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    if summary := (getdoc(kind) or "").partition("\n")[0]:
        found["description"] = summary
    return found


def _of_hint(hint: Any) -> Schema:
    """What fits a type hint, as `stages.parameters` reads it: a list where a tuple is named."""
    origin, options = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if isinstance(hint, type) and is_dataclass(hint):
        return _of_dataclass(hint)
    if origin is Literal:
        return {"enum": list(options)}
    if origin in (Union, UnionType):
        return {"anyOf": [_of_hint(option) for option in options]}
    if origin is tuple:
        if len(options) == 2 and options[1] is Ellipsis:
            return {"type": "array", "items": _of_hint(options[0])}
        items = [_of_hint(option) for option in options]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of_hint(options[1])}
    if hint is NoneType:
        return {"type": "null"}
    return {name: value for name, value in pydantic.TypeAdapter(hint).json_schema().items() if name != "title"}


def _described(kind: type[Any]) -> Mapping[str, str]:
    """What the docstring says of each parameter: `name, name : words`, going on in lines that are indented more."""
    known = {f.name for f in fields(kind)}
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (getdoc(kind) or "").splitlines():
        head, colon, words = line.strip().partition(" : ")
        listed = [name.strip() for name in head.split(",")]
        if colon and all(name in known for name in listed):
            names = listed
            found |= dict.fromkeys(names, words)
        elif line.startswith("    ") and names:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            names = []
    return found
