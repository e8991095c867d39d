"""Networks in an object store: copied as they are, anew where they changed, and applied as those on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.errors import InputError, InputNotFoundError
from chunkflow.run.check import check
from chunkflow.storage.copies import _inside, copied
from chunkflow.storage.stores import ObjectPath
from chunkflow.testing.suites import differences, write_volume


def test_what_lies_on_this_machine_is_not_copied(tmp_path: Path) -> None:
    assert copied(str(tmp_path)) == str(tmp_path)
    assert copied("nowhere") == "nowhere"


@pytest.mark.parametrize("name", ["../weights.pt", "/etc/passwd", "a/../../b"])
def test_names_that_lead_out_of_a_copy_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="outside of its copy"):
        _inside(tmp_path, name)


@pytest.mark.thorough
def test_a_folder_is_copied_whole_and_again_when_it_changed(bucket: ObjectPath) -> None:
    folder = bucket / "models/net"
    for name, content in (("model.yaml", b"one"), ("inner/more.bin", b"two")):
        (folder / name).write_bytes(content)
    first = Path(copied(str(folder)))
    assert first.name == "net"
    assert {str(p.relative_to(first)): p.read_bytes() for p in first.rglob("*") if p.is_file()} == {
        "model.yaml": b"one",
        "inner/more.bin": b"two",
    }
    assert copied(str(folder)) == str(first)
    (folder / "model.yaml").write_bytes(b"other")
    assert (Path(copied(str(folder))) / "model.yaml").read_bytes() == b"other"
    (bucket / "net.onnx").write_bytes(b"three")
    assert Path(copied(str(bucket / "net.onnx"))).read_bytes() == b"three"


@pytest.mark.thorough
def test_a_folder_of_something_else_is_never_copied(bucket: ObjectPath) -> None:
    (bucket / "volume.ome.zarr/zarr.json").write_bytes(b"{}")
    with pytest.raises(InputError, match="holds none of model.yaml"):
        copied(str(bucket / "volume.ome.zarr"))
    with pytest.raises(InputNotFoundError, match="does not exist"):
        copied(str(bucket / "nothing"))


@pytest.mark.thorough
def test_a_network_in_a_store_is_applied_by_workers_of_their_own_as_the_one_on_disk(
    bucket: ObjectPath, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")
    from chunkflow.models import Usage, save_model
    from chunkflow.models.unet import UNet, UNetConfig

    torch.manual_seed(0)
    config = UNetConfig(widths=(4,), norm="none")
    save_model(UNet(config).eval(), config, tmp_path / "net", usage=Usage(activation="none"))
    for path in (tmp_path / "net").iterdir():
        (bucket / "net" / path.name).upload(path)
    volume = write_volume(tmp_path / "in.ome.zarr", np.random.default_rng(0).random((8, 20, 24), dtype=np.float32))
    results = []
    for name, path in (("disk", str(tmp_path / "net")), ("store", str(bucket / "net"))):
        pipeline = cf.Pipeline([cf.Predict(path=path, threshold=None)], output=cf.OutputOptions(save=("probability",)))
        plan = pipeline.plan(volume, tmp_path / name, block=(8, 16, 16))
        results.append(plan.run(on="serial") if name == "disk" else plan.run(on="local", workers=2))
        assert plan.facts["network"]["path"] == path
    assert differences(results[1], results[0]) == []
    assert check(str(bucket / "net"))["digest"] == check(tmp_path / "net")["digest"]
