"""Write down the versions of this environment for the images: run in one whose tests pass.

python deploy/pin.py
"""

import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]

NOT_HERE = {"cupy-cuda13x": "14.2.0", "dask-cuda": "26.10.0"}
"""Versions of what a machine without a GPU, or an environment for development, does not have."""

FILES = {
    "constraints-cpu.txt": (("models", "cluster"), (), "What the images install besides chunkflow (deploy/pin.py)."),
    "constraints-cuda.txt": (
        ("gpu", "cluster"),
        ("dask-cuda", "onnxruntime"),
        "As constraints-cpu.txt, with what a GPU needs; torch is PyPI's, which brings CUDA.",
    ),
}


def pinned(requirements: list[str]) -> dict[str, str]:
    """Versions of these and of all that they need."""
    found: dict[str, str] = {}
    waiting = [(Requirement(line), ("",)) for line in requirements]
    while waiting:
        requirement, extras = waiting.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = canonicalize_name(requirement.name)
        if name in found and not requirement.extras:
            continue
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            if name in NOT_HERE:
                found[name] = NOT_HERE[name]
            continue
        waiting += [(Requirement(line), ("", *requirement.extras)) for line in requires(name) or []]
    return found


def main() -> None:
    """Write both files."""
    for name, (extras, more, title) in FILES.items():
        lines = [
            *PROJECT["dependencies"],
            *(line for e in extras for line in PROJECT["optional-dependencies"][e]),
            *more,
        ]
        pins = [f"{package}=={number}" for package, number in sorted(pinned(lines).items())]
        (HERE / name).write_text("\n".join([f"# {title}", *pins, ""]))


if __name__ == "__main__":
    main()
