"""Links within the documents lead somewhere: to a file that is there, and to a heading in it."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "examples").glob("*.md"),
        *ROOT.glob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
    ]
)
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)(?: [^)]*)?\)")


def text_of(page: Path) -> str:
    """The page without code, in which brackets mean something else."""
    return re.sub(r"`[^`\n]*`", "`code`", FENCE.sub("", page.read_text(encoding="utf-8")))


def links_of(page: Path) -> list[str]:
    return [link for link in LINK.findall(text_of(page)) if not re.match(r"[a-z]+:", link)]


def anchor(heading: str) -> str:
    """What GitHub and Python-Markdown make of a heading, where they agree."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain)).strip("-")


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {anchor(heading) for heading in headings}


def broken(page: Path, link: str) -> bool:
    name, _, part = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.exists() or not target.is_relative_to(ROOT):
        return True
    return bool(part) and target.suffix == ".md" and part not in anchors_of(target)


def test_there_are_links_and_anchors() -> None:
    found = [link for page in PAGES for link in links_of(page)]
    assert len(found) > 80
    assert sum("#" in link for link in found) > 20


@pytest.mark.parametrize("link", ["nothing.md", "index.md#nothing", "#nothing", "../../outside.md"])
def test_a_broken_link_is_noticed(link: str) -> None:
    assert broken(ROOT / "docs" / "index.md", link)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_links_of_the_page_lead_somewhere(page: Path) -> None:
    assert [link for link in links_of(page) if broken(page, link)] == []


def test_pictures_of_the_page_say_what_they_show() -> None:
    assert [page.name for page in PAGES if re.search(r"!\[\s*\]\(", text_of(page))] == []


def test_every_page_is_in_the_navigation_once() -> None:
    class Loader(yaml.SafeLoader):
        """Passes over what only mkdocs reads."""

    Loader.add_multi_constructor("", lambda *_: None)
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"]
    named = re.findall(r"[\w-]+\.md", str(nav))
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_site_takes_nothing_from_the_network() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in settings
    assert "extra_javascript" not in settings
    assert "extra_css" not in settings


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_pictures_come_with_the_page(page: Path) -> None:
    assert re.findall(r"!\[[^\]]*\]\(https?:[^)]*\)", text_of(page)) == []
