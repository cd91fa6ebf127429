"""Chromium, driven; it remembers which requests failed and what pages complained of."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image
from selenium.common.exceptions import (
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

WAIT_S = 25.0
POLL_S = 0.05
QUIET_S = 0.6
"""A page is settled when none of our requests has been under way for so long."""

PAGE_WIDTH = 1280
LONGEST_PAGE = 1600
COLOURS = 200
"""Of pictures of whole pages: what docs show is a few tens of kilobytes."""

UNAVOIDABLE = (
    # The audio player replaces its element when the sound has come.
    "The play() request was interrupted",
)
"""What the web UI complains of whatever the server does."""

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


def find_programs() -> tuple[str, str] | None:
    """Return the paths of Chromium and its driver, None if one is missing."""
    chromium = shutil.which("chromium")
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


@dataclass
class Traffic:
    """What the browser has asked our server for since the last look."""

    open: dict[str, str] = field(default_factory=dict)
    requested: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    changed_s: float = 0.0


class Browser:
    """A headless Chromium.

    Args:
        programs: Paths of Chromium and its driver.
        origin: Our server; what fails elsewhere is not counted.
        profile: An empty directory.
        screenshots: Where pictures go.
        width: Of the window.
    """

    def __init__(
        self,
        programs: tuple[str, str],
        *,
        origin: str,
        profile: Path,
        screenshots: Path,
        width: int = 1500,
    ) -> None:
        options = ChromeOptions()
        options.binary_location = programs[0]
        for flag in (
            *FLAGS,
            f"--window-size={width},1000",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(flag)
        options.set_capability(
            "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
        )
        options.page_load_strategy = "none"
        self.origin = origin
        self.screenshots = screenshots
        self.traffic = Traffic()
        self.complaints: list[str] = []
        self.driver = Chrome(options=options, service=Service(programs[1]))
        self.driver.set_script_timeout(WAIT_S)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.driver.quit()

    # --- walking ---------------------------------------------------------------------

    def open(self, path: str, *, ready: str = "#root > *") -> None:
        """Load a page anew and wait until it has settled.

        Args:
            path: The page.
            ready: A CSS selector that finds nothing before the page is there.
        """
        self.driver.get("about:blank")
        self._collect()
        self.traffic = Traffic()
        self.complaints.clear()
        self.driver.get(self.origin + path)
        self.wait(lambda: self.all(ready))
        self.settle()

    def settle(self) -> None:
        """Wait until the page asks our server for nothing any more."""

        def is_quiet() -> bool:
            self._collect()
            idle = time.monotonic() - self.traffic.changed_s >= QUIET_S
            return idle and not self.traffic.open and bool(self.traffic.requested)

        self.wait(is_quiet)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Return the first true value of `condition`."""
        waiting = WebDriverWait(
            self.driver,
            WAIT_S,
            POLL_S,
            (NoSuchElementException, StaleElementReferenceException),
        )
        return waiting.until(lambda _: condition())

    def wait_for(self, *texts: str) -> None:
        """Wait until the page shows every text."""
        try:
            self.wait(lambda: all(text in self.text() for text in texts))
        except TimeoutException:
            missing = [text for text in texts if text not in self.text()]
            msg = f"not shown: {missing}; shown: {self.text()[:3000]}"
            raise AssertionError(msg) from None

    def text(self) -> str:
        """Return what the page shows."""
        # A page that has only begun to load has no body.
        shown: str = self.driver.execute_script(
            "return document.body ? document.body.innerText : ''"
        )
        return shown

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements of a CSS selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def click_text(self, text: str, *, within: str = "body") -> None:
        """Click the first element whose own text is `text`."""
        path = f".//*[normalize-space(text())={json.dumps(text)}]"

        def find() -> WebElement:
            return self.driver.find_element(By.CSS_SELECTOR, within).find_element(
                By.XPATH, path
            )

        element = self.wait(find)
        self.driver.execute_script("arguments[0].click()", element)

    def point_and_click(self, selector: str) -> None:
        """Click the first element of a CSS selector with the mouse."""
        mouse = ActionChains(self.driver)
        mouse.move_to_element(self.all(selector)[0]).click().perform()

    def shoot(self, name: str) -> Path:
        """Keep a picture of the page."""
        path = self.screenshots / f"{name}.png"
        self.driver.save_screenshot(str(path))
        return path

    def write_over(self, text: str, by: str) -> None:
        """Show another text in the place of one that is of this machine alone."""
        self.driver.execute_script(
            "const [text, by] = arguments;"
            "const texts = NodeFilter.SHOW_TEXT;"
            "const all = document.createTreeWalker(document.body, texts);"
            "while (all.nextNode())"
            "  all.currentNode.data = all.currentNode.data.replaceAll(text, by)",
            text,
            by,
        )

    def shoot_whole(self, name: str) -> Path:
        """Keep a picture of the whole page, in few colours: small enough for docs."""
        height = self.driver.execute_script(
            "return document.documentElement.scrollHeight"
        )
        clip = {
            "x": 0,
            "y": 0,
            "width": PAGE_WIDTH,
            "height": min(height, LONGEST_PAGE),
            "scale": 1,
        }
        taken = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
        )
        path = self.screenshots / f"{name}.png"
        with Image.open(io.BytesIO(base64.b64decode(taken["data"]))) as picture:
            picture.convert("RGB").quantize(COLOURS).save(path, optimize=True)
        return path

    # --- judging ---------------------------------------------------------------------

    def check(self) -> None:
        """Check that no request of ours failed and the page complains of nothing.

        Raises:
            AssertionError: If one did, or it does.
        """
        self._collect()
        assert self.traffic.failed == []
        assert self.complaints == []

    def asked_for(self, part: str) -> bool:
        """Return whether the page has requested an address of ours with this part."""
        self._collect()
        return any(part in url for url in self.traffic.requested)

    def _collect(self) -> None:
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(entry["message"])["message"]
            handler = _HANDLERS.get(message["method"])
            if handler is not None:
                handler(self, message["params"])
        logged: Iterable[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        for line in logged:
            if line["level"] == "SEVERE" and self._is_ours(line["message"]):
                self.complaints.append(line["message"])

    def _is_ours(self, message: str) -> bool:
        if any(known in message for known in UNAVOIDABLE):
            return False
        # The console names the script or address first: those of other sites are not
        # reachable in tests, and pages must do without.
        return message.startswith(self.origin) or not message.startswith("http")

    def _on_request(self, params: dict[str, Any]) -> None:
        url = params["request"]["url"]
        if url.startswith(self.origin):
            self.traffic.requested.append(url)
        # The rest of a worker's story is told to the worker.
        if url.startswith(self.origin) and "orker" not in url.rsplit("/", 1)[-1]:
            self.traffic.open[params["requestId"]] = url
            self.traffic.changed_s = time.monotonic()

    def _on_response(self, params: dict[str, Any]) -> None:
        response = params["response"]
        if response["url"].startswith(self.origin) and response["status"] >= 400:
            self.traffic.failed.append(f"{response['status']} {response['url']}")

    def _on_finished(self, params: dict[str, Any]) -> None:
        if self.traffic.open.pop(params["requestId"], None):
            self.traffic.changed_s = time.monotonic()

    def _on_failed(self, params: dict[str, Any]) -> None:
        url = self.traffic.open.pop(params["requestId"], None)
        if url is None:
            return
        self.traffic.changed_s = time.monotonic()
        if not params.get("canceled"):
            self.traffic.failed.append(f"{params['errorText']} {url}")


_HANDLERS: dict[str, Callable[[Browser, dict[str, Any]], None]] = {
    "Network.requestWillBeSent": Browser._on_request,
    "Network.responseReceived": Browser._on_response,
    "Network.loadingFinished": Browser._on_finished,
    "Network.loadingFailed": Browser._on_failed,
}
