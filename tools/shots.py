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
                for number, picture in enumerate(whole_page(driver), start=1):
                    target = options.out / f"{name}-{number}.png"
                    target.write_bytes(picture)
                    print(target)
    return 0


def book_pages(html: Path) -> list[str]:
    """The pages that a reader reads, as paths inside the book; index.html only forwards to the first of them."""
    pages = [page.relative_to(html).as_posix() for page in sorted(html.rglob("*.html"))]
    return [page for page in pages if page not in (*NOT_CHAPTERS, "index.html") and not page.startswith("_")]


def whole_page(driver: webdriver.Chrome) -> Iterator[bytes]:
    """PNGs of the page, from top to bottom."""
    size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    for top in range(0, size["height"], TALLEST):
        height = min(size["height"] - top, TALLEST)
        clip = {"x": 0, "y": top, "width": size["width"], "height": height, "scale": 1}
        shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        yield base64.b64decode(shot["data"])


if __name__ == "__main__":
    sys.exit(main())
