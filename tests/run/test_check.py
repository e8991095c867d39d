"""`chunkflow check` of networks: what they are, and whether packages do what their makers say."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from chunkflow.errors import ModelError  # noqa: E402
from chunkflow.models.load import digest_of, save_model  # noqa: E402
from chunkflow.models.unet import UNet, UNetConfig  # noqa: E402
from chunkflow.models.usage import Normalization, Usage  # noqa: E402
from chunkflow.run.check import check  # noqa: E402

CONFIG = UNetConfig(widths=(4, 8), norm="none", out_channels=2, stem=(1, 2, 2))
USAGE = Usage(
    normalization=Normalization(kind="percentiles", percentiles=(2.0, 99.0), asinh=3.0),
    activation="softmax",
    outputs=("cell", "border"),
    threshold=0.6,
)


def test_the_facts_of_a_network_are_those_it_was_saved_with(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_model(UNet(CONFIG), CONFIG, tmp_path / "net", usage=USAGE)
    facts = check(tmp_path / "net")
    assert facts | {
        "kind": "network",
        "form": "safetensors",
        "architecture": "U-Net of widths 4, 8",
        "in_channels": 1,
        "out_channels": 2,
        "stride": [2, 4, 4],
        "upsampling": [1, 1, 1],
        "normalization": "percentiles 2 and 99 to 0 and 1, then asinh of 3 times that",
        "activation": "softmax",
        "outputs": ["cell", "border"],
        "threshold": 0.6,
        "digest": digest_of(tmp_path / "net"),
    } == dict(facts)
    assert "own_test" not in facts


def test_a_package_is_applied_to_its_own_test_image(tmp_path: Path) -> None:
    pytest.importorskip("bioimageio.spec", reason="bioimageio.spec is not installed")
    from chunkflow.models.zoo import write_package

    torch.manual_seed(0)
    write_package(
        tmp_path / "package",
        model=UNet(CONFIG),
        config=CONFIG,
        usage=USAGE,
        sample_input=np.random.default_rng(0).gamma(2, 100, (16, 20, 20)),
        name="Cells",
        description="Finds cells.",
        authors=[{"name": "Ada"}],
    )
    facts = check(tmp_path / "package")
    assert facts["form"] == "BioImage Model Zoo, pytorch_state_dict"
    assert facts["own_test"].startswith("passed") and facts["own_test_largest_difference"] < 1e-5
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "package", other)
    np.save(other / "test_output.npy", np.load(other / "test_output.npy") * np.float32(1.1))
    rdf = yaml.safe_load((other / "rdf.yaml").read_text())
    del rdf["outputs"][0]["test_tensor"]["sha256"]
    (other / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    with pytest.raises(ModelError, match="other values for its own test image"):
        check(other)
    del rdf["outputs"][0]["test_tensor"]
    (other / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    assert check(other)["own_test"] == "it has none"
