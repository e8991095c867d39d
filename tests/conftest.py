"""What several test files share: tiny volumes, one cluster, and a way to compare whole folders."""

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.run.dask import DaskEngine, local_engine
from chunkflow.storage import retry
from chunkflow.storage.stores import ObjectPath, place_of
from chunkflow.synth import optics, phantoms
from chunkflow.testing import suites

os.environ.setdefault("OMP_NUM_THREADS", "1")

SHAPE = (32, 100, 120)
VOXEL_UM = (0.2, 0.08, 0.08)


@pytest.fixture(scope="session")
def write_volume() -> Callable[..., Any]:
    """(path, array, voxel_um) -> the Volume stored there."""
    return suites.write_volume


@pytest.fixture(scope="session")
def tree_hash() -> Callable[[Path], dict[str, str]]:
    """(folder) -> digest of every file by name, those of the run itself and the report aside."""

    def hashes(folder: Path) -> dict[str, str]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        named = {str(path.relative_to(folder)): path for path in files}
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in named.items()
            if not name.startswith("run/") and name != "report.html"
        }

    return hashes


@pytest.fixture(scope="session")
def demo_image() -> np.ndarray:
    """(32, 100, 120) uint16: a few blurred, noisy tubes at `VOXEL_UM`, four networks with loops."""
    phantom = phantoms.mitochondria(SHAPE, VOXEL_UM, seed=1)
    return optics.acquire(phantom.labels, voxel_um=VOXEL_UM, seed=1)


@pytest.fixture(scope="session")
def demo_volume(demo_image: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo image on disk."""
    path = tmp_path_factory.mktemp("demo") / "in.ome.zarr"
    suites.write_volume(path, demo_image, VOXEL_UM)
    return path


@pytest.fixture(scope="session")
def tiny_volume(demo_image: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corner of the demo image, (20, 40, 44) voxels: 2 to 8 blocks of 24 per pass."""
    path = tmp_path_factory.mktemp("tiny") / "in.ome.zarr"
    suites.write_volume(path, demo_image[6:26, 30:70, 40:84], VOXEL_UM)
    return path


@pytest.fixture(scope="session")
def demo_pipeline() -> Callable[..., cf.Pipeline]:
    """(changes by stage name, save) -> every stage but predict, with small tiles so that there are several."""

    def make(save: tuple[str, ...] = ("image", "labels", "skeleton"), **changes: dict[str, Any]) -> cf.Pipeline:
        psf = cf.Psf(fwhm_um=(0.6, 0.25, 0.25))
        given = {
            "deconvolve": {"psf": psf, "iterations": 3, "background": 10.0, "tile": (32, 64, 64), "halo": (4, 6, 6)},
            "resample": {},
            "threshold": {"smooth_um": 0.06},
            "label": {"min_voxels": 20},
            "skeleton": {},
            "measure": {},
        }
        made = {"deconvolve": cf.Deconvolve, "resample": cf.Resample, "threshold": cf.Threshold, "label": cf.Label}
        made |= {"skeleton": cf.Skeleton, "measure": cf.Measure}
        stages = [
            made[name](**values, **{}) for name, values in ((n, v | changes.get(n, {})) for n, v in given.items())
        ]
        return cf.Pipeline(stages, output=cf.OutputOptions(save=save))

    return make


@pytest.fixture(scope="session")
def cluster() -> Iterator[DaskEngine]:
    """An engine on a local cluster of two workers; its `client` is a distributed Client."""
    engine = local_engine(2, 4 * 2**30)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """A server that speaks the protocol of S3."""
    pytest.importorskip("moto", reason="moto[server] is not installed")
    from chunkflow.testing.object_store import s3_server

    with s3_server() as address:
        yield address


@pytest.fixture
def proxy(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What stands between a test and the server, and is asked of every request; credentials and endpoint are set."""
    from chunkflow.testing.object_store import ENVIRONMENT, proxied

    with proxied(s3_address) as going_on:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": going_on.address}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(retry, "FIRST_WAIT_SECONDS", 0.01)
        yield going_on


@pytest.fixture
def bucket(proxy: Any, s3_address: str) -> ObjectPath:
    """A bucket of its own, empty."""
    from chunkflow.testing.object_store import make_bucket

    name = f"test-{uuid.uuid4().hex}"
    make_bucket(s3_address, name)
    retry.take_counts()
    place = place_of(f"s3://{name}")
    assert isinstance(place, ObjectPath)
    return place
