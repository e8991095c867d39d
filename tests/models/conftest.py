"""What tests of network files share: a small network, its export, a pickle that would run, and archives taken apart."""

import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def payload(tmp_path: Path) -> Any:
    """`value` to be hidden in files, `content` its pickle, `mark` the file that it makes where it is let."""
    value = Payload(tmp_path / "mark")
    return SimpleNamespace(value=value, content=pickle.dumps(value), mark=tmp_path / "mark")


@pytest.fixture(scope="session")
def small() -> Any:
    """`config` of a network of two levels with stored statistics and two outputs, and the network: `module`."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")
    from chunkflow.models.unet import UNet, UNetConfig

    torch.manual_seed(0)
    config = UNetConfig(widths=(4, 8), norm="batch", out_channels=2)
    module = UNet(config)
    with torch.no_grad():
        module(torch.rand(2, 1, 8, 8, 8))  # running statistics that are not 0 and 1
    return SimpleNamespace(config=config, module=module.eval())


@pytest.fixture(scope="session")
def patches() -> np.ndarray:
    """(3, 1, 8, 8, 8) float32."""
    return np.random.default_rng(0).random((3, 1, 8, 8, 8), dtype=np.float32)


@pytest.fixture(scope="session")
def applied() -> Callable[..., np.ndarray]:
    """(model, patches) -> its outputs."""
    import torch

    def outputs(model: Any, patches: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model.module(torch.from_numpy(patches.copy())).numpy()

    return outputs


@pytest.fixture(scope="session")
def truth(small: Any, applied: Any, patches: np.ndarray) -> np.ndarray:
    """(3, 2, 8, 8, 8): what the small network makes of the patches."""
    return applied(small, patches)


@pytest.fixture(scope="session")
def program(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .pt2 with a free number of patches, so that it holds shape expressions and guards."""
    import torch

    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    stated = {"stride": list(small.config.stride), "usage": {"activation": "softmax"}}
    shapes = ({0: torch.export.Dim("patches", min=1, max=64)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, from tracing; loading is under "error"
        exported = torch.export.export(small.module, (torch.zeros(2, 1, 8, 8, 8),), dynamic_shapes=shapes)
        torch.export.save(exported, path, extra_files={"chunkflow.json": json.dumps(stated)})
    return path


@pytest.fixture(scope="session")
def script(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as TorchScript, which states its stride and what becomes of its outputs."""
    import torch

    path = tmp_path_factory.mktemp("scripted") / "net.torchscript"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # writing it is what is deprecated
        traced = torch.jit.trace(small.module, torch.zeros(1, 1, 8, 8, 8), check_trace=False)
        stated = json.dumps({"stride": 2, "usage": {"activation": "none"}})
        traced.save(str(path), _extra_files={"chunkflow.json": stated})
    return path


@pytest.fixture(scope="session")
def rewritten() -> Callable[..., Path]:
    """(archive, target, {part: bytes or function of its text}) -> target: a copy with parts edited or added."""

    def write(source: Path, target: Path, changes: dict[str, Any]) -> Path:
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
            root = old.namelist()[0].partition("/")[0]
            parts = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
            for name, change in changes.items():
                parts[name] = change if isinstance(change, bytes) else change(parts[name].decode()).encode()
            for name, content in parts.items():
                new.writestr(f"{root}/{name}", content)
        return target

    return write


@pytest.fixture(scope="session")
def edited() -> Callable[..., Any]:
    """(function of parsed JSON) -> function of its text, for `rewritten`."""

    def of(edit: Callable[[Any], None]) -> Callable[[str], str]:
        def change(text: str) -> str:
            content = json.loads(text)
            edit(content)
            return json.dumps(content)

        return change

    return of
