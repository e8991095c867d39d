"""Make the notebooks from the scripts beside this folder, and execute them.

    python examples/notebooks/make.py [NAME ...]

A script becomes a text cell of its docstring and a code cell for its imports and for each part that begins with
`# %%`. Its command line (`# %% end`) is left out; the calls below take its place. Needs nbclient, nbformat and
ipykernel.
"""

from __future__ import annotations

import ast
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

HERE = Path(__file__).parent
CALLS = {
    "mitochondria": (
        ("Run it", "result, true_um = drawn(OUT)\npd.Series(summary(result, true_um)).round(3)"),
        ("Look", "picture(result)"),
        ("Every object is certified: its loops, counted twice, agree", "bool(result.objects.certified.all())"),
        ("The longest branches", 'result.branches.nlargest(5, "length_um").round(3)'),
        ("Your own stacks", 'print("table(Path(DATA_FOLDER), OUT) runs the three real stacks")'),
    ),
    "nuclei": (
        ("Run it", "result, truth = run(OUT)\npd.Series(scores(result, truth)).round(3)"),
        ("Look", "picture(result)"),
        ("Sizes and shapes", 'result.objects[["volume_um3", "sphericity", "intensity_mean"]].describe().round(2)'),
        ("Which touch", 'result.contacts.nlargest(5, "area_um2").round(2)'),
    ),
    "neurites": (
        ("Run it", "result = run(OUT)\nlongest(result).round(3)"),
        ("Look", "picture(result)"),
        ("Which touch, and on how large an area", 'result.contacts.nlargest(5, "area_um2").round(3)'),
        ("One of them as a graph", "graph = result.graph_of(objects=[int(longest(result, 1).index[0])])\nprint(graph)"),
    ),
}
"""Title and code of the cells that take the place of the command line."""


def cells_of(name: str) -> list[Any]:
    """Cells of a notebook, without outputs."""
    source = (HERE.parent / f"{name}.py").read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(source)) or ""
    title, _, rest = text.partition("\n")
    head, *parts = re.split(r"^# %% (.*)\n", source.split("# %% end")[0], flags=re.MULTILINE)
    head = (
        head.split('"""', 2)[2]
        .strip()
        .replace("from __future__ import annotations\n\n", "")
        .replace("import argparse\n", "")
    )
    head = head.replace("Path(__file__).with_name(", 'Path("..").joinpath(')
    if "import pandas" not in head:
        head = head.replace("import numpy as np\n", "import numpy as np\nimport pandas as pd\n")
    cells = [new_markdown_cell(f"# {title}\n{rest}"), new_code_cell(f'{head}\n\nOUT = Path("{name}-out")')]
    for heading, code in zip(parts[::2], parts[1::2], strict=True):
        cells += [new_markdown_cell(f"## {heading}"), new_code_cell(code.strip())]
    for heading, code in CALLS[name]:
        cells += [new_markdown_cell(f"## {heading}"), new_code_cell(code)]
    for number, cell in enumerate(cells):
        cell["id"] = f"{name}-{number}"
    return cells


def executed(name: str) -> Any:
    """The notebook with what its cells show; logs and progress are left out."""
    book = new_notebook(cells=cells_of(name), metadata={"language_info": {"name": "python"}})
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "notebooks"
        place.mkdir()
        (Path(folder) / "mitochondria.yaml").write_bytes((HERE.parent / "mitochondria.yaml").read_bytes())
        NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": place}}).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    book.metadata = {"language_info": {"name": "python"}}
    return book


def main() -> None:
    """Write the notebooks that are named, or all."""
    for name in sys.argv[1:] or CALLS:
        path = HERE / f"{name}.ipynb"
        nbformat.write(executed(name), path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
