"""The page that dask draws of a cluster's tasks: where it is, if there is one.

Clusters of ours have one where bokeh is installed, which dask draws with, and show it to this machine alone; it takes
about a second at the start and 20 MB. Of a scheduler that somebody else started, the page is looked for.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

ANSWER_SECONDS = 2.0
ADDRESS = "127.0.0.1:0"
"""Of clusters of ours. Never None: the scheduler would open its pages at 8787, and warn where that is taken."""
WITHOUT_BOKEH = b"needs bokeh"


def can_draw() -> bool:
    """Whether dask's dashboard can be drawn here."""
    return find_spec("bokeh") is not None


def dashboard_of(client: Any) -> str:
    """The page of a client's scheduler, as it is reached from here; empty where there is none."""
    link = None
    with suppress(Exception):  # of a scheduler without pages, or one that is gone
        link = client.dashboard_link
    if not link:
        return ""
    parts = urlsplit(str(link))
    here = parts._replace(netloc=f"127.0.0.1:{parts.port}").geturl()
    return next((url for url in dict.fromkeys((str(link), here)) if _answers(url)), "")


def _answers(url: str) -> bool:
    if urlsplit(url).scheme not in ("http", "https"):
        return False
    with suppress(OSError, ValueError), build_opener(ProxyHandler({})).open(url, timeout=ANSWER_SECONDS) as page:
        return WITHOUT_BOKEH not in page.read(2**16)
    return False
