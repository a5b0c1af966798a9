"""Headless Chromium for the book's tests and screenshots. No name resolves: whatever a page asks for outside fails."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

DESKTOP, PHONE = (1280, 900), (390, 844)  # CSS pixels
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-prefers-reduced-motion",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


def programs() -> tuple[str, str] | None:
    """Where Chromium and its driver are, or None."""
    chromium = next((found for name in CHROMIUM_NAMES if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


@contextmanager
def browse() -> Iterator[webdriver.Chrome]:
    """A browser that keeps a log of its console and of its network requests."""
    chromium, driver_program = programs()
    options = Options()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_program))
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """A web server for ``folder`` on a free port of 127.0.0.1; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Say nothing for each request."""


def open_page(driver: webdriver.Chrome, address: str, scheme: str = "light", size: tuple[int, int] = DESKTOP) -> None:
    """Open a page in a colour scheme ("light" or "dark") and a window size; wait for its math and its widgets."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get(address)
    WebDriverWait(driver, 60, poll_frequency=0.05).until(is_settled)


def is_settled(driver: webdriver.Chrome) -> bool:
    """Whether the page is loaded, every formula typeset, and every widget drawn."""
    return driver.execute_script(
        """
        const math = document.querySelectorAll(".bd-article .math");
        const typeset = [...math].every((node) => node.querySelector("mjx-container"));
        const views = [...document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]')];
        const drawn = views.every((view) => view.parentElement.querySelector(".jupyter-widgets, .widget-subarea > *"));
        return document.readyState === "complete" && typeset && drawn;
        """
    )


def console_errors(driver: webdriver.Chrome) -> list[str]:
    """The messages of level SEVERE since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def requests(driver: webdriver.Chrome) -> list[str]:
    """The addresses that the pages have asked for since the last call, without data: and blob: addresses."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [address for address in asked if not address.startswith(("data:", "blob:"))]
