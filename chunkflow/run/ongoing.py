"""A run that is going on: what its functions hand to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chunkflow.backend import Device
from chunkflow.plan.plan import Plan
from chunkflow.run.engine import Engine
from chunkflow.run.journal import Journal
from chunkflow.run.outstanding import Accepted
from chunkflow.run.places import Places
from chunkflow.run.worker import OnOom

Event = Mapping[str, Any]
Listener = Callable[[Event], None]


@dataclass(slots=True)
class Run:
    """What the functions of a run hand to each other.

    accepted : what it takes over from earlier runs, and of its own workers
    command : what goes on with it
    """

    plan: Plan
    places: Places
    journal: Journal
    engine: Engine
    device: Device
    epoch: tuple[str, int]
    say: Listener
    on_oom: OnOom = "fail"
    accepted: Accepted = field(default_factory=lambda: Accepted(kind="", mixed=True))
    command: str = ""

    def fingerprint(self, name: str) -> str:
        """Of a pass."""
        return self.places.fingerprints[name]
