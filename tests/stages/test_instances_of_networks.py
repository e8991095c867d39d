"""Instances on what a network says of borders or distances: as good as the network, and the same for any blocks."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import adapted_rand_error

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

import chunkflow as cf  # noqa: E402
from chunkflow.geometry.box import Triple  # noqa: E402
from chunkflow.run.result import Result  # noqa: E402
from chunkflow.testing.suites import differences, write_volume  # noqa: E402

PATCH = (16, 16, 16)
SHAPE = (26, 40, 44)


class Borders(torch.nn.Module):
    """Two outputs: the logit of "here is a border", high where it is dark around, and how bright it is far around."""

    def forward(self, x: Any) -> Any:
        near = torch.nn.functional.avg_pool3d(x, 3, 1, 1, count_include_pad=False)
        far = torch.nn.functional.avg_pool3d(near, 5, 1, 2, count_include_pad=False)
        return torch.cat([12 * (0.6 - near), far], 1)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("network") / "borders.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, from tracing
        exported = torch.export.export(Borders().eval(), (torch.zeros(1, 1, *PATCH),))
        torch.export.save(exported, path, extra_files={"chunkflow.json": json.dumps({"stride": 1})})
    return str(path)


@pytest.fixture(scope="module")
def cells() -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Cells that fill the volume, dark where they meet; and which cell it is."""
    grid = np.stack(np.meshgrid((6, 19), (6, 19, 33), (6, 21, 37), indexing="ij"), axis=-1).reshape(-1, 3)
    centres = grid + np.random.default_rng(5).integers(-2, 3, grid.shape)
    voxel = np.stack(np.indices(SHAPE), axis=-1)
    truth = np.argmin([((voxel - c) ** 2).sum(axis=-1) for c in centres], axis=0).astype(np.uint16) + 1
    meet = ndimage.grey_dilation(truth, 3) != ndimage.grey_erosion(truth, 3)
    noise = np.random.default_rng(6).normal(0, 0.1, SHAPE)
    return (np.where(meet, 0.1, 1.0) + noise).astype(np.float32), truth


def run(folder: Path, stages: list[Any], image: NDArray[Any], block: Triple) -> Result:
    folder = folder / str(len(list(folder.iterdir())))
    source = write_volume(folder / "in.ome.zarr", image)
    pipeline = cf.Pipeline(stages, output=cf.OutputOptions(save=("labels",)))
    return pipeline.plan(source, folder / "out", block=block).run(on="serial", device="cpu")


def check(folder: Path, stages: list[Any], image: NDArray[Any], truth: NDArray[Any], error: float) -> NDArray[Any]:
    result = run(folder, stages, image, SHAPE)
    assert result.labels is not None
    labels = np.asarray(result.labels[:])
    assert adapted_rand_error(truth, labels)[0] < error
    assert not differences(run(folder, stages, image, (13, 23, 17)), result)
    return labels


def test_cells_are_flooded_up_to_the_borders_that_a_network_sees(
    tmp_path: Path, network: str, cells: tuple[NDArray[np.float32], NDArray[np.uint16]]
) -> None:
    image, truth = cells
    stages = [
        cf.Predict(path=network, patch=PATCH, overlap=8, channel=0, threshold=None),
        cf.Threshold(method="fixed", value=-1.0),  # borders are foreground too: all is
        cf.Instances(on="intensity", bright="borders", h=0.2, smooth_um=1.0),
    ]
    labels = check(tmp_path, stages, image, truth, 0.05)
    assert labels.all()
    assert labels.max() == truth.max()


def test_pieces_of_cells_are_put_together_where_the_network_sees_no_border(
    tmp_path: Path, network: str, cells: tuple[NDArray[np.float32], NDArray[np.uint16]]
) -> None:
    image, truth = cells
    before = [
        cf.Predict(path=network, patch=PATCH, overlap=8, channel=0, threshold=None),
        cf.Threshold(method="fixed", value=-1.0),
    ]
    pieces = run(tmp_path, [*before, cf.Instances(on="intensity", bright="borders", h=0.0)], image, SHAPE)
    assert pieces.labels is not None
    assert np.asarray(pieces.labels[:]).max() > 3 * truth.max()
    whole = cf.Instances(on="intensity", bright="borders", h=0.0, agglomerate=0.9)
    labels = check(tmp_path, [*before, whole], image, truth, 0.05)
    assert labels.max() == truth.max()


def test_cells_are_flooded_down_from_the_distances_that_a_network_gives(
    tmp_path: Path, network: str, cells: tuple[NDArray[np.float32], NDArray[np.uint16]]
) -> None:
    image, truth = cells
    stages = [
        cf.Predict(path=network, patch=PATCH, overlap=8, channel=1, activation="none", threshold=0.3),
        cf.Instances(on="intensity", bright="inside", h=0.1),
    ]
    labels = check(tmp_path, stages, image, truth, 0.1)
    assert labels.max() == truth.max()
