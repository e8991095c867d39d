"""What a finished run left, as the sections of the report ask for it: plan, journal, tables, and the result in numbers.

    run/plan.json       --> plan, pipeline, stages, input_path        Read when first asked for, then kept. Tables are
    run/journal.jsonl   --> state of each pass                        gone through, some rows at a time;
    result              --> tables, merges, numbers                   voxels are not read here.

What the pipeline did not make is None or missing, even where earlier settings left a file of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import time
from typing import Any

from chunkflow.errors import IntegrityError
from chunkflow.geometry.scale import Scale
from chunkflow.plan.pipeline import SAVED
from chunkflow.run.findings import Findings
from chunkflow.run.journal import Journal, PassState
from chunkflow.run.measures import SUMMED, totals_of
from chunkflow.run.places import run_folder
from chunkflow.run.result import Result
from chunkflow.storage.hierarchy import zarr_kind
from chunkflow.storage.stores import Place, place_of
from chunkflow.storage.tables import StoredTable

QUANTITIES = {
    "objects": ("objects", ""),
    "loops": ("loops", ""),
    "free_ends": ("free ends", ""),
    "junctions": ("junctions", ""),
    "length_um": ("total length", "µm"),
    "volume_um3": ("total volume", "µm³"),
    "mean_diameter_um": ("mean diameter", "µm"),
    "dice": ("Dice overlap of the masks", ""),
}
"""What is counted, in words and units."""


@dataclass
class RunFacts:
    """A result and what the run left beside it. Missing parts are None or empty."""

    result: Result
    written: float = field(default_factory=time)

    @cached_property
    def stored(self) -> Mapping[str, Any]:
        """run/plan.json."""
        path = run_folder(self.result.path) / "plan.json"
        try:
            content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise IntegrityError(f"{path} cannot be read ({error})", "Run the same command again") from error
        return content

    @cached_property
    def journal(self) -> Journal:
        return Journal.read(run_folder(self.result.path) / "journal.jsonl")

    @property
    def plan(self) -> Mapping[str, Any]:
        return dict(self.stored["plan"])

    @property
    def pipeline(self) -> Mapping[str, Any]:
        return dict(self.stored["pipeline"])

    @property
    def stages(self) -> dict[str, Mapping[str, Any]]:
        return {key: values for stage in self.pipeline["stages"] for key, values in stage.items()}

    @property
    def expansion(self) -> float:
        """How many times the specimen was swollen."""
        return float(self.pipeline["input"].get("expansion", 1.0))

    @cached_property
    def scale(self) -> Scale | None:
        """Of the result, by the arrays that were saved; None where none was."""
        saved = (getattr(self.result, name) for name in SAVED)
        return next((volume.volume.scale for volume in saved if volume is not None), None)

    @cached_property
    def is_complete(self) -> bool:
        """Whether arrays and tables are in their places, and these settings'."""
        journal = self.journal
        stands = journal.is_published and journal.publishing is None
        wanted = {p["name"]: self.stored["fingerprints"][p["name"]] for p in self.plan["passes"]}
        return stands and journal.published_passes == wanted

    @property
    def findings(self) -> Findings:
        """What the merges found that the user should know."""
        states = {p["name"]: self.state(p["name"]) for p in self.plan["passes"]}
        return Findings(self.pipeline, self.plan, self.result.pass_values, states)

    @cached_property
    def input_path(self) -> Place:
        """The image that was read: the group around the array, or the file that was imported for the run."""
        named = self.pipeline["input"].get("path")
        if named and Path(named).is_file():
            return Path(named)
        array = place_of(self.plan["input"]["path"])
        above: Sequence[Place] = array.parents
        groups = (folder for folder in above if zarr_kind(folder) == "group")
        return next(groups, array)

    @property
    def name(self) -> str:
        return self.input_path.name

    def state(self, name: str) -> PassState:
        """What the journal knows of a pass of the stored plan."""
        return self.journal.passes.get(self.stored["fingerprints"][name], PassState())

    def table(self, name: str) -> StoredTable | None:
        """A table of the result, if this pipeline makes it, to go through or to read the first rows of."""
        makes = {"branches": "graph", "nodes": "graph", "seams": "apply-seams"}.get(name, name)
        if makes not in self.stored["fingerprints"] or not self.is_complete:
            return None  # a file may be there from earlier settings
        return StoredTable(self.result.path / "tables", name)

    def values(self, name: str) -> Mapping[str, Any] | None:
        """What a merge left, if this pipeline has it."""
        if name not in self.stored["fingerprints"] or not self.is_complete:
            return None
        return self.result.pass_values(name)

    @cached_property
    def numbers(self) -> dict[str, float]:
        """The result in numbers, by the names in `QUANTITIES`, as far as it goes."""
        tables = {name: self.table(name) for name in ("objects", "branches", "nodes")}
        found = totals_of(*(None if table is None else table.batches(*SUMMED[name]) for name, table in tables.items()))
        if "objects" not in found and (merged := self.values("label-merge")) is not None and "count" in merged:
            found = {"objects": int(merged["count"][0]), **found}
        return found
