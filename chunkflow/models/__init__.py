"""Networks: what they are, how their files are read without running code, and how they are applied to patches.

The only package that imports torch, and only when a network is first loaded: `import chunkflow.models` and
`digest_of` (which the plan uses) work without it.
"""

from chunkflow.models.load import Model, digest_of, load_model, save_model
from chunkflow.models.predict import Application, predict
from chunkflow.models.usage import Normalization, Usage

__all__ = ["Application", "Model", "Normalization", "Usage", "digest_of", "load_model", "predict", "save_model"]
