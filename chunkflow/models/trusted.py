"""Pickled modules (`torch.save(model, ...)`): programs in Python's own bytes. Loading one runs whatever it says.

So it happens only where somebody named the digest of exactly that file: whoever can write the number has seen the file,
and a file that changes is refused again. This is the only place of the package that unpickles without limits.
"""

from __future__ import annotations

from pathlib import Path

from chunkflow.errors import ModelError
from chunkflow.models import files
from chunkflow.models.adapters import probed_model
from chunkflow.models.model import Model, Stated, import_torch


def load_trusted(path: Path, digest: str, device: str, stated: Stated | None = None) -> Model:
    """A network from a pickled module that the user vouches for. RUNS CODE from the file.

    Raises
    ------
    ModelError : it cannot be unpickled here, is no module, or takes and gives no volumes.
    """
    torch = import_torch()
    file = files.weights_file(path)
    try:
        module = torch.load(file, map_location=device, weights_only=False)
    except Exception as error:  # anything can be raised by code that is not ours
        raise ModelError(
            f"{path} cannot be unpickled: {type(error).__name__}: {files.first_line(error)}",
            "Its classes must be importable, from the versions it was saved with",
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"{path} holds a {type(module).__name__}, not a module", "Save the network itself")
    module = module.float().requires_grad_(False).eval()
    return probed_model(
        module,
        path,
        digest,
        device,
        stated=stated or Stated(),
        kind="pickled module, trusted",
        architecture=type(module).__name__,
    )
