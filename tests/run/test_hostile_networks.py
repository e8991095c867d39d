"""Networks that go wrong in the middle of a run: one clear error, and nothing half-written is called done."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

import chunkflow as cf  # noqa: E402
from chunkflow.errors import IncompleteError, ModelError  # noqa: E402
from chunkflow.models.model import Stated  # noqa: E402
from chunkflow.run.status import status  # noqa: E402
from chunkflow.storage.volume import Volume  # noqa: E402
from chunkflow.testing.suites import write_volume  # noqa: E402

PATCH = (16, 16, 16)


class Root(torch.nn.Module):
    """NaN where the image is below zero, as it is in one corner of the volume alone."""

    def forward(self, x: Any) -> Any:
        return torch.sqrt(x)


class Thinner(torch.nn.Module):
    """One plane less than it was given."""

    def forward(self, x: Any) -> Any:
        return x[:, :, 1:]


class Twice(torch.nn.Module):
    """Two channels where one was said."""

    def forward(self, x: Any) -> Any:
        return torch.cat((x, x), 1)


def exported(module: torch.nn.Module, path: Path, **stated: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, from tracing
        program = torch.export.export(module.eval(), (torch.zeros(1, 1, *PATCH),))
        text = json.dumps({"stride": 1, "usage": {"activation": "none"}} | stated)
        torch.export.save(program, path, extra_files={"chunkflow.json": text})
    assert Stated.from_dict(json.loads(text))
    return str(path)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    voxels = np.random.default_rng(0).random((20, 40, 40), dtype=np.float32)
    voxels[-2:, -2:, -2:] = -1
    return write_volume(tmp_path / "in.ome.zarr", voxels)


def plan(path: str, volume: Volume, out: Path) -> cf.Plan:
    pipeline = cf.Pipeline([cf.Predict(path=path, patch=PATCH), cf.Label()], output=cf.OutputOptions(save=("labels",)))
    return pipeline.plan(volume, out, block=(16, 16, 16))


def test_nan_in_the_last_patch_sets_its_block_aside_and_the_run_goes_on_with_a_sound_network(
    tmp_path: Path, volume: Volume
) -> None:
    out = tmp_path / "out"
    with pytest.raises(IncompleteError, match="NaN or infinity"):
        plan(exported(Root(), tmp_path / "root.pt2"), volume, out).run(on="serial")
    assert status(out).state != "complete"
    assert not (out / "image.ome.zarr").exists()
    sound = exported(torch.nn.Conv3d(1, 1, 1), tmp_path / "sound.pt2")
    plan(sound, volume, out).run(on="serial")
    assert status(out).state == "complete"


def test_a_network_that_gives_another_size_is_refused_at_its_first_patch(tmp_path: Path, volume: Volume) -> None:
    out = tmp_path / "out"
    with pytest.raises(ModelError, match=r"gives \(1, 1, 15, 16, 16\) for patches \(1, 1, 16, 16, 16\)"):
        plan(exported(Thinner(), tmp_path / "thin.pt2"), volume, out).run(on="serial")
    assert status(out).state != "complete"


def test_outputs_that_nobody_asked_for_are_no_mistake_and_those_that_are_not_there_are(
    tmp_path: Path, volume: Volume
) -> None:
    path = exported(Twice(), tmp_path / "twice.pt2")
    plan(path, volume, tmp_path / "out").run(on="serial")
    with pytest.raises(ModelError, match="channel 2 of a network with 2 outputs"):
        cf.Pipeline([cf.Predict(path=path, patch=PATCH, channel=2)]).plan(volume, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_network_that_changed_since_the_plan_is_refused_by_the_worker(tmp_path: Path, volume: Volume) -> None:
    path = exported(torch.nn.Conv3d(1, 1, 1), tmp_path / "net.pt2")
    made = plan(path, volume, tmp_path / "out")
    exported(torch.nn.Conv3d(1, 1, 3, padding=1), tmp_path / "net.pt2")
    with pytest.raises(ModelError, match="not the one the run was planned with"):
        made.run(on="serial")
