"""Neuroglancer on a result: in the user's browser, as a picture, or as a state to hand on.

    with showing("out") as shown:           a server of this process, for this machine alone
        print(shown.url)                     -> any browser; or shown.picture() by one without a window

The page comes from the Python package `neuroglancer` and the data through this process, from the folder or the bucket
where they are: the browser asks nobody else. Data are read as they are looked at, so size does not matter.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from chunkflow.errors import IncompleteError, UsageError
from chunkflow.storage.files import write_atomic
from chunkflow.storage.stores import is_url
from chunkflow.view.browser import LOOPBACK, SIZE, Browser, check_running, find_browser, headless
from chunkflow.view.scene import Scene, open_scene
from chunkflow.view.serve import served
from chunkflow.view.state import Look, State, neuroglancer_state

CLIENT = "https://neuroglancer-demo.appspot.com/"
"""The public page that a shareable link opens: it reads the data, and nobody else sees them."""
PATIENCE_S = 120.0
ATTEMPTS = 5
LOOK_AGAIN_S = 0.25
_PLAIN = "~@$&()*!+=:;,.?/'"
"""Characters of a state that need no escape behind the # of a URL."""


@dataclass(frozen=True)
class Shown:
    """A scene on a server of this process."""

    scene: Scene
    base: str
    """URL of the folder."""
    viewer: Any

    @property
    def url(self) -> str:
        """What to open in a browser."""
        return str(self.viewer)

    def show(self, state: State) -> None:
        """Show something else, in every browser that is open."""
        self.viewer.set_state(state)


@dataclass(frozen=True, slots=True)
class Camera:
    """A browser without a window that is open on a scene."""

    shown: Shown
    browser: Browser
    program: str
    size: tuple[int, int]

    def picture(self, *, patience_s: float = PATIENCE_S) -> bytes:
        """A PNG of what is shown now, once all of it has arrived; the panels, without controls.

        Raises
        ------
        IncompleteError : not everything arrived in time.
        """
        until = time.monotonic() + patience_s
        for _ in range(ATTEMPTS):  # the first ones can be taken before the page has its size
            reply = self._reply(until)
            if (reply.width, reply.height) == self.size:
                return bytes(reply.image)
        raise IncompleteError(
            f"the picture has {reply.width} x {reply.height} pixels, not those asked for", "Try again"
        )

    def _reply(self, until: float) -> Any:
        arrived, replies = threading.Event(), []

        def take(reply: Any) -> None:
            replies.append(reply.screenshot)
            arrived.set()

        self.shown.viewer.async_screenshot(take)
        while not arrived.wait(LOOK_AGAIN_S):
            check_running(self.browser, self.program)
            if time.monotonic() > until:
                raise IncompleteError(
                    f"Neuroglancer has not shown all of {self.shown.scene.name} in time ({self.browser.said()})",
                    "Look at it in a browser: chunkflow view OUT",
                )
        return replies[0]


@contextmanager
def showing(location: str | Path, look: Look | None = None, *, bind: str = LOOPBACK, port: int = 0) -> Iterator[Shown]:
    """Serve a result, or an OME-Zarr image, and show it in Neuroglancer until the block ends.

    Parameters
    ----------
    location : a folder, or a URL of s3, gs or https, which this process reads for the browser.
    bind, port : where the server listens; 0 takes any free port. Whoever has the address can read the data.

    Raises
    ------
    InputError : there is nothing to show.
    UsageError : the package neuroglancer is not installed, or the port is taken.
    """
    scene = open_scene(location)
    package = _package()
    _check_port(bind, port)
    package.set_server_bind_address(bind, port)
    viewer = package.Viewer()
    try:
        base = served(package.server.global_server, scene.place)
        viewer.set_state(neuroglancer_state(scene, base, look))
        yield Shown(scene, base, viewer)
    finally:
        package.server.stop()


@contextmanager
def camera(shown: Shown, *, size: tuple[int, int] = SIZE, browser: str | None = None) -> Iterator[Camera]:
    """Open a browser without a window on what is shown.

    Raises
    ------
    InputNotFoundError : no Chromium is installed.
    """
    program = find_browser(browser)
    with shown.viewer.config_state.txn() as config:
        config.show_ui_controls = False
        config.show_panel_borders = False
        config.viewer_size = list(size)
    with headless(shown.url, program=program, size=size) as running:
        yield Camera(shown, running, program, size)


def screenshot(
    location: str | Path,
    look: Look | None = None,
    *,
    size: tuple[int, int] = SIZE,
    browser: str | None = None,
    patience_s: float = PATIENCE_S,
) -> bytes:
    """A PNG of a result as Neuroglancer shows it, made without a display.

    Raises
    ------
    InputError : there is nothing to show.
    UsageError : neuroglancer or a browser is missing.
    IncompleteError : not everything arrived in `patience_s` seconds.
    """
    find_browser(browser)
    look = replace(look or Look(), window_px=size)
    with showing(location, look) as shown, camera(shown, size=size, browser=browser) as taken:
        return taken.picture(patience_s=patience_s)


def write_state(
    path: str | Path, location: str | Path, look: Look | None = None, *, url_base: str | None = None
) -> str:
    """Write the state as JSON, to be pasted into any Neuroglancer, and return a link that opens it.

    Parameters
    ----------
    url_base : where others find the folder (https, s3 or gs); by default where it was found.

    Raises
    ------
    UsageError : of a folder of this machine, without a `url_base`.
    """
    scene = open_scene(location)
    base = url_base or str(scene.place)
    if not is_url(base):
        raise UsageError(
            f"a state of {scene.name} would name this machine, which others cannot reach",
            "Say where the folder is, or will be: --url-base https://HOST/OUT",
        )
    state = neuroglancer_state(scene, base, look)
    write_atomic(path, (json.dumps(state, indent=1) + "\n").encode())
    return link(state)


def link(state: State, client: str = CLIENT) -> str:
    """A URL that holds a state."""
    text = json.dumps(state, separators=(",", ":"))
    return f"{client}#!{quote(text, safe=_PLAIN)}"


def _check_port(bind: str, port: int) -> None:
    """Say so before a server is started that could not listen."""
    try:
        with socket.create_server((bind, port)):
            pass
    except OSError as error:
        raise UsageError(
            f"port {port} of {bind} cannot be had ({error.strerror or error})", "Choose another --port, or --bind"
        ) from error


def _package() -> Any:
    try:
        import neuroglancer
        import neuroglancer.server
    except ImportError as error:
        raise UsageError(
            "the package neuroglancer is not installed",
            "pip install 'chunkflow-engine[viewers]', or neuroglancer alone",
        ) from error
    return neuroglancer
