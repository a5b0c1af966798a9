"""Screenshots of every page of the built book, whole pages: light, dark, and as wide as a phone."""

import argparse
import base64
import sys
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver

from tools.book import ROOT
from tools.browser import DESKTOP, PHONE, browse, open_page, programs, serve

LOOKS = {"light": ("light", DESKTOP), "dark": ("dark", DESKTOP), "phone": ("light", PHONE)}
NOT_CHAPTERS = ("genindex.html", "search.html", "py-modindex.html")
TALLEST = 8_000  # pixels of one picture; a longer page gives several, numbered


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.shots", description=__doc__)
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html", help="the built book")
    parser.add_argument("--out", type=Path, default=ROOT / "shots", help="folder of the screenshots")
    options = parser.parse_args(arguments)
    if not (options.html / "index.html").exists():
        print(f"shots: {options.html} holds no book; run `make book` first", file=sys.stderr)
        return 1
    if programs() is None:
        print("shots: needs chromium and chromedriver on the PATH", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    with serve(options.html) as address, browse() as driver:
        for page in book_pages(options.html):
            for look, (scheme, size) in LOOKS.items():
                open_page(driver, f"{address}/{page}", scheme, size)
                name = f"{page.removesuffix('.html').replace('/', '-')}-{look}"
                for number, picture in enumerate(whole_page(driver, size[0]), start=1):
                    target = options.out / f"{name}-{number}.png"
                    target.write_bytes(picture)
                    print(target)
    return 0


def book_pages(html: Path) -> list[str]:
    """The pages that a reader reads, as paths inside the book; index.html only forwards to the first of them."""
    pages = [page.relative_to(html).as_posix() for page in sorted(html.rglob("*.html"))]
    return [page for page in pages if page not in (*NOT_CHAPTERS, "index.html") and not page.startswith("_")]


def whole_page(driver: webdriver.Chrome, width: int) -> Iterator[bytes]:
    """PNGs of the page, from top to bottom; the last one overlaps the one before.

    The window is made tall and scrolled. A picture beyond the window (captureBeyondViewport) would be quicker, but
    Chromium lays pages taller than a texture out anew for it, wider than the window.
    """
    height = driver.execute_script("return document.documentElement.scrollHeight")
    metrics = {"width": width, "height": min(height, TALLEST), "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    for top in range(0, height, TALLEST):
        driver.execute_script("window.scrollTo({top: arguments[0], behavior: 'instant'})", top)
        yield base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", {})["data"])


if __name__ == "__main__":
    sys.exit(main())
