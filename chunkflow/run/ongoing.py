"""A run that is going on: what its functions hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, field

from chunkflow.backend import Device
from chunkflow.plan.plan import Plan
from chunkflow.run.engine import Engine
from chunkflow.run.events import Listener
from chunkflow.run.gpu_use import Told
from chunkflow.run.journal import Journal
from chunkflow.run.outstanding import Accepted
from chunkflow.run.places import Places
from chunkflow.run.worker import OnOom


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
    gpus: Told = field(init=False)
    _dashboards: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.gpus = Told(self.say)

    def tell_dashboard(self) -> None:
        """Say where the engine's cluster is drawn, once."""
        url = self.engine.dashboard
        if url and url not in self._dashboards:
            self._dashboards.add(url)
            self.say({"event": "dashboard", "url": url})

    def fingerprint(self, name: str) -> str:
        """Of a pass."""
        return self.places.fingerprints[name]
