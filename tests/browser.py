"""A real browser without a window, for the pages that cnnlive writes.

Chromium or Chrome with its driver, by selenium. Where there is none, tests are skipped and say so; in continuous
integration (the environment variable ``CI``) they fail instead, so that nobody takes silence for success.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_ARGUMENTS = ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--force-device-scale-factor=1")
_PATIENCE = 20.0  # seconds; a page is waited for, never slept for


def find() -> tuple[str, str] | str:
    """Return the paths of a browser and of its driver, or the reason why there are none."""
    browser = next((path for path in map(shutil.which, _BROWSERS) if path), None)
    if browser is None:
        return f"no browser on the path (looked for {', '.join(_BROWSERS)})"
    # Machines of code hosts name the folder of a driver that fits their Chrome.
    folder = os.environ.get("CHROMEWEBDRIVER")
    driver = shutil.which("chromedriver", path=folder) if folder else None
    driver = driver or shutil.which("chromedriver")
    if driver is None:
        return f"{browser} is there, its driver chromedriver is not"
    return browser, driver


def start(width: int = 1280, height: int = 900) -> Browser:
    """Return a browser, or skip the test (in continuous integration: fail it) with the reason."""
    found = find()
    reason = found if isinstance(found, str) else ""
    if not reason:
        try:
            import selenium  # noqa: F401, PLC0415 - only where it is asked for
        except ImportError:
            reason = "selenium is not installed"
    if isinstance(found, str) or reason:
        if os.environ.get("CI"):
            pytest.fail(f"CI is set, and pages cannot be tested: {reason}")
        pytest.skip(f"pages are tested in a browser: {reason}")
    return Browser(*found, width, height)


class Browser:
    """A browser with one page; closes with ``close()``.

    Attributes
    ----------
    driver : selenium.webdriver.Chrome
    """

    def __init__(self, browser: str, driver: str, width: int, height: int) -> None:
        from selenium import webdriver  # noqa: PLC0415 - only where it is asked for
        from selenium.common.exceptions import SessionNotCreatedException  # noqa: PLC0415
        from selenium.webdriver.chrome.options import Options  # noqa: PLC0415
        from selenium.webdriver.chrome.service import Service  # noqa: PLC0415

        def launch(*more: str) -> webdriver.Chrome:
            options = Options()
            options.binary_location = browser
            for argument in (*_ARGUMENTS, *more):
                options.add_argument(argument)
            options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
            # The driver's path is given: selenium would look for one in the network otherwise.
            return webdriver.Chrome(service=Service(driver), options=options)

        # Chromium's sandbox does not run as root, nor in containers without user namespaces; pages are our own.
        if os.name == "posix" and os.geteuid() == 0:
            self.driver = launch("--no-sandbox")
        else:
            try:
                self.driver = launch()
            except SessionNotCreatedException:
                self.driver = launch("--no-sandbox")
        self.media()
        self.size(width, height)

    def close(self) -> None:
        self.driver.quit()

    def command(self, name: str, **arguments: Any) -> Any:
        """Send a command of the browser's own protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    # ---- the page

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a file and wait until it has loaded; what was logged before is forgotten."""
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(path.resolve().as_uri() + fragment)

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )

    def media(self, medium: str = "", *, scheme: str = "light") -> None:
        """Look at the page as on `medium` (``"print"``), in the system's `scheme` of colours."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},  # nothing glides, so nothing has to be waited for
        ]
        self.command("Emulation.setEmulatedMedia", media=medium, features=features)

    def script(self, body: str, *arguments: Any) -> Any:
        """Run JavaScript, ``arguments[0]`` ... its arguments, and return what it returns."""
        return self.driver.execute_script(body, *arguments)

    def until(self, body: str, *arguments: Any) -> Any:
        """Wait until JavaScript returns something true; return that."""
        end = time.monotonic() + _PATIENCE
        while True:
            value = self.script(body, *arguments)
            if value:
                return value
            assert time.monotonic() < end, f"waited {_PATIENCE:.0f} s for {body!r} {arguments}"
            time.sleep(0.02)

    def texts(self, selector: str) -> list[str]:
        return self.script("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)

    def text(self, selector: str) -> str:
        """Return the text of the one element that a selector finds."""
        found = self.texts(selector)
        assert len(found) == 1, f"{selector}: {len(found)} elements"
        return found[0]

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Return left, top, width and height of an element, in pixels of the window."""
        found = self.script(
            "const r = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [r.left, r.top, r.width, r.height]",
            selector,
        )
        return tuple(found)

    # ---- hands

    def move(self, x: float, y: float, **more: Any) -> None:
        self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, **more)

    def press(self, x: float, y: float, clicks: int = 1) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=clicks)

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        self.command("Input.dispatchMouseEvent", type="mousePressed", x=x0, y=y0, button="left", clickCount=1)
        for part in (0.5, 1.0):
            self.move(x0 + part * (x1 - x0), y0 + part * (y1 - y0), button="left", buttons=1)
        self.command("Input.dispatchMouseEvent", type="mouseReleased", x=x1, y=y1, button="left", clickCount=1)

    def keys(self, *names: str) -> None:
        """Press keys, one after the other, where the focus is: ``"ArrowRight"``, ``"Enter"``, ``"a"``."""
        for name in names:
            text = {"Enter": "\r", "Space": " "}.get(name, name if len(name) == 1 else "")
            key = " " if name == "Space" else name
            number = {"Enter": 13, "Tab": 9, "Space": 32}.get(name, 0)
            more = {"text": text} if text else {}
            self.command(
                "Input.dispatchKeyEvent", type="keyDown", key=key, code=name, windowsVirtualKeyCode=number, **more
            )
            self.command("Input.dispatchKeyEvent", type="keyUp", key=key, code=name, windowsVirtualKeyCode=number)

    def click(self, selector: str) -> None:
        """Bring an element into sight and press it with the mouse."""
        self.script("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
        left, top, width, height = self.box(selector)
        self.press(left + width / 2, top + height / 2)

    # ---- what was written and asked for

    def errors(self) -> list[str]:
        """Return what the page has written to the console as an error since it was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """Return the addresses that the page has asked for since it was opened."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]

    def picture(self, path: Path, *, clip: tuple[float, float, float, float] | None = None) -> None:
        """Write a PNG file of the window, or of a part of it (left, top, width, height)."""
        more = {}
        if clip is not None:
            more = {"clip": dict(zip(("x", "y", "width", "height"), clip, strict=True), scale=1)}
        image = self.command("Page.captureScreenshot", format="png", **more)
        path.write_bytes(base64.b64decode(image["data"]))

    def paper(self) -> bytes:
        """Return the page as a PDF file."""
        return base64.b64decode(self.command("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])
