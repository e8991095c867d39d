"""Where everything of a run lies, inside the output folder.

out/run/plan.json, input.json      what the run was planned with
out/run/journal.jsonl, lock, epoch
out/run/arrays/PASS-FP/NAME        arrays until they are published (or deleted)
out/run/records/PASS-FP/           records of units, values of merges
out/image.ome.zarr/0 ...           published arrays: moved there by renaming, or copied inside an object store
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from chunkflow.plan.plan import Plan
from chunkflow.storage.stores import ObjectPath, Place
from chunkflow.storage.volume import holds_array

LABEL_NAMES = {"labels": "objects", "skeleton": "skeleton", "mask": "mask", "classes": "classes"}


def run_folder(output: Place) -> Place:
    """The folder of a run's own files."""
    return output / "run"


def target_of(name: str) -> str:
    """Where a kept array is published, relative to the output: level k of ARRAY is named ARRAY@k."""
    array, _, level = name.partition("@")
    level = level or "0"
    if array in LABEL_NAMES:
        return f"image.ome.zarr/labels/{LABEL_NAMES[array]}/{level}"
    return f"{array}.ome.zarr/{level}"


def pass_key(name: str, fingerprint: str) -> str:
    """A pass by name and fingerprint, as folders are called."""
    return f"{name}-{fingerprint[:16]}"


def is_pass_key(name: str) -> bool:
    """Whether a folder is called as those of passes are."""
    return re.fullmatch(r"[a-z0-9-]+-[0-9a-f]{16}", name) is not None


def array_folder(output: Place, array: str, producer: str, fingerprint: str, published: Mapping[str, str]) -> Place:
    """Where an array of a pass is now: published under its fingerprint, or staged (also if it is nowhere yet)."""
    staged = run_folder(output) / "arrays" / pass_key(producer, fingerprint) / array
    target = target_of(array)
    return output / target if not is_staged(staged) and published.get(target) == fingerprint else staged


def is_staged(staged: Place) -> bool:
    """Whether an array is not published yet. In an object store its metadata are deleted first when it has been."""
    return holds_array(staged) if isinstance(staged, ObjectPath) else staged.exists()


@dataclass(frozen=True, slots=True)
class Places:
    """Paths of one plan, whose passes have these fingerprints."""

    plan: Plan
    fingerprints: Mapping[str, str]

    @property
    def run(self) -> Place:
        """The folder of the run's own files."""
        return run_folder(self.plan.output)

    def records(self, name: str) -> Place:
        """Folder of a pass's records."""
        return self.run / "records" / self.pass_key(name)

    def constants(self, name: str) -> Place:
        """File of the arrays the plan fixed for a pass."""
        return self.records(name) / "constants.rec"

    def pass_key(self, name: str) -> str:
        """A pass by name and fingerprint, as folders are called."""
        return pass_key(name, self.fingerprints[name])

    def staged(self, array: str) -> Place:
        """Where an array lies until it is published."""
        return self.run / "arrays" / self.pass_key(self.plan.arrays[array].producer) / array

    def locate(self, array: str, published: Mapping[str, str]) -> Place:
        """Where an array is now: published under this fingerprint, or staged (also if it is nowhere yet)."""
        producer = self.plan.arrays[array].producer
        return array_folder(self.plan.output, array, producer, self.fingerprints[producer], published)
