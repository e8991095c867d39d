"""A Chromium without a window, for pictures of pages: started on a page, ended with everything it started.

WebGL runs in software (SwiftShader), so neither a display nor a graphics card is needed. A profile of its own, deleted
afterwards, keeps it apart from the user's; what browsers fetch for themselves is switched off.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from chunkflow.errors import InputNotFoundError, UsageError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
FLAGS = (
    "--headless=new",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",  # the page is ours, and there may be no other GL
    "--disable-dev-shm-usage",  # containers have 64 MB of it
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing is fetched from anywhere else
    "--no-first-run",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
LOOPBACK = "127.0.0.1"
SIZE = (1200, 900)
"""Width and height of a picture in pixels, where nothing is said."""
GRACE_S = 5.0
SAID = 3
"""Lines of a browser's log that an error repeats."""


class Browser:
    """A running Chromium."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def said(self) -> str:
        """The last errors of its page and its own."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line for line in lines if "CONSOLE" in line or "ERROR" in line or "FATAL" in line]
        return " | ".join((told or lines)[-SAID:])


def find_browser(named: str | None = None) -> str:
    """The program to start: the one named, or a Chromium or Chrome that is installed.

    Raises
    ------
    InputNotFoundError : there is none; the remedy names the package.
    """
    if named is not None:
        found = shutil.which(named)
        if found is None:
            raise InputNotFoundError(f"{named} is not a program", "Give the path of Chromium or Chrome")
        return found
    for name in (*NAMES, *APPLICATIONS):
        if found := shutil.which(name):
            return found
    raise InputNotFoundError(
        "a picture needs Chromium or Chrome, and none is installed",
        "Install it (Debian: apt-get install chromium; macOS: brew install --cask chromium) or name one with --browser",
    )


@contextmanager
def headless(url: str, *, program: str, size: tuple[int, int]) -> Iterator[Browser]:
    """A browser that shows a page, until the block ends.

    Raises
    ------
    UsageError : it does not start.
    """
    with TemporaryDirectory(prefix="chunkflow-browser-", ignore_cleanup_errors=True) as scratch:
        log = Path(scratch) / "log"
        flags = [*FLAGS, f"--window-size={size[0]},{size[1]}", f"--user-data-dir={scratch}/profile"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # which Chromium cannot have as root, as in most containers
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program, *flags, url], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            yield Browser(process, log)
        finally:
            _end(process)


def check_running(browser: Browser, program: str) -> None:
    """An error with what the browser said, if it has ended."""
    if not browser.is_running:
        raise UsageError(f"{program} ended at once ({browser.said()})", "Start it by hand, or name another: --browser")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a browser and the processes it started, which are a group of their own."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        until = time.monotonic() + GRACE_S
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
    process.wait()
