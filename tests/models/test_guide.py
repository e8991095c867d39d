"""What docs/models.md shows can be read as it stands."""

from pathlib import Path

import pytest
import yaml

import chunkflow as cf

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from chunkflow.models.files import SUFFIXES  # noqa: E402
from chunkflow.models.model import Stated, usage_of  # noqa: E402
from chunkflow.models.unet import UNetConfig  # noqa: E402

GUIDE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_headers_and_pipelines_of_the_guide_are_read() -> None:
    read = []
    for part in GUIDE.split("```yaml\n")[1:]:
        content = yaml.safe_load(part.split("```")[0])
        if "stages" in content:
            read.append(type(cf.Pipeline.from_dict(content).stages[0]).__name__)
        elif "architecture" in content:
            UNetConfig.from_dict(content["config"])
            read.append(usage_of(content["usage"]).activation)
        else:
            read.append(Stated.from_dict(content).usage.activation)
    assert read == ["Resample", "Predict", "softmax", "none", "Predict", "Predict"]


def test_the_guide_names_every_form() -> None:
    assert [suffix for suffix in SUFFIXES if f"`{suffix}`" not in GUIDE] == []
