"""What a report looks like, as pictures at its own size: docs/report.png, docs/report-charts.png.

    python examples/report_pictures.py [OUT]

Runs the demo of a synthetic volume, and shows parts of its report in Chromium without a window, which has to be
installed. OUT is this folder's ../docs by default. Takes a minute.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageChops

from chunkflow.report.report import rebuild_report
from chunkflow.run.demo import run_demo
from chunkflow.view.browser import FLAGS, find_browser

PARTS = {"report.png": ("", "Checks", "Slices", "Skeleton"), "report-charts.png": ("Distributions", "Speed")}
"""Sections by their headings; "" are those without one, above all others."""
LEFT_OUT = re.compile(r"<h3>Passes</h3>.*?(?=</section>)|<details.*?</details>", re.DOTALL)
WIDTH, TALLEST = 1000, 4000
COLORS = 128
"""Of a picture: enough for the eye, and a third of the file."""
MARGIN = 12


def main() -> None:
    """Read the arguments, run the demo, write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent.parent / "docs")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        result = run_demo(Path(folder) / "demo", on="serial").result
        html = Path(rebuild_report(result.path)).read_text(encoding="utf-8").replace(folder, "")
        for name, headings in PARTS.items():
            shown = Path(folder) / "shown.html"
            shown.write_text(only(html, headings), encoding="utf-8")
            picture(shown, Path(folder)).save(given.out / name, optimize=True)
            print(given.out / name)


def only(html: str, headings: Sequence[str]) -> str:
    """The page with some of its sections; without its title, where the first is not among them."""
    html = LEFT_OUT.sub("", html)
    first, last = html.index("<section>"), html.rindex("</section>") + len("</section>")
    sections = re.findall("<section>.*?</section>", html, re.DOTALL)
    kept = [section for section in sections if heading(section) in headings]
    top = html[:first] if "" in headings else re.sub("<h1>.*", "", html[:first], flags=re.DOTALL)
    return top + "".join(kept) + re.sub("<footer>.*?</footer>", "", html[last:])


def heading(section: str) -> str:
    """The first heading of a section, or nothing."""
    found = re.match("<section><h2>(.*?)</h2>", section)
    return found[1] if found else ""


def picture(page: Path, folder: Path) -> Image.Image:
    """A page as a reader sees it, cut off below its last line."""
    target = folder / "page.png"
    flags = [*FLAGS, f"--user-data-dir={folder / 'profile'}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    size = f"--window-size={WIDTH},{TALLEST}"
    subprocess.run([find_browser(), *flags, size, f"--screenshot={target}", page.as_uri()], check=True, timeout=120)
    with Image.open(target) as shown:
        pixels = shown.convert("RGB")
    paper = Image.new("RGB", pixels.size, pixels.getpixel((0, 0)))
    box = _different(pixels, paper)
    return pixels.crop((0, 0, WIDTH, min(TALLEST, box + MARGIN))).quantize(COLORS, dither=Image.Dither.NONE)


def _different(pixels: Image.Image, paper: Image.Image) -> int:
    """The last row that is not empty."""
    box = ImageChops.difference(pixels, paper).getbbox()
    return pixels.height if box is None else box[3]


if __name__ == "__main__":
    main()
