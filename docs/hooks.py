"""Links that lead out of docs/ (to examples, tests, benchmarks) go to the repository, in the site; files keep them."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\]\(\.\./([^)\s]+)\)")


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """The page with such links as addresses."""
    return OUTSIDE.sub(rf"]({config['repo_url']}/blob/main/\1)", markdown)
