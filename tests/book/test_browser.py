"""The built book as a reader's browser shows it: no network, no kernel, a keyboard, a phone."""

import itertools
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.book.pages import WIDGETS, Built
from tools import browser
from tools.shots import book_pages

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser.programs() is None, reason="needs chromium and chromedriver on the PATH"),
]

SHOWN = """
return [...document.querySelectorAll(".widget-subarea img")]
    .filter((image) => image.closest(".widget-html").offsetParent !== null).map((image) => image.alt);
"""
NAMELESS = """
const labels = (element) => element.labels && [...element.labels].some((label) => label.textContent.trim());
return [...document.querySelectorAll(`.widget-subarea :is(button, select, input, textarea, [role], [tabindex="0"])`)]
    .filter((element) => !element.closest("mjx-container") && !element.getAttribute("aria-hidden"))
    .filter((element) => !element.getAttribute("aria-label") && !element.textContent.trim() && !labels(element))
    .map((element) => element.outerHTML.slice(0, 200));
"""


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    with browser.browse() as driver:
        yield driver


@pytest.fixture(autouse=True)
def fresh_logs(driver: Chrome) -> None:
    """Each test reads only what its own pages asked for and complained of."""
    driver.get("about:blank")
    browser.requests(driver), browser.console_errors(driver)


@pytest.fixture(scope="module")
def stick(built: Built) -> str:
    """The book as it lies on a USB stick: no server."""
    return built.html.as_uri()


@pytest.fixture(scope="module", params=["server", "stick"])
def address(request: pytest.FixtureRequest, built: Built, stick: str) -> Iterator[str]:
    if request.param == "stick":
        yield stick
    else:
        with browser.serve(built.html) as address:
            yield address


def open_widgets(driver: Chrome, address: str) -> None:
    browser.open_page(driver, f"{address}/{WIDGETS}.html")


def test_no_page_asks_for_anything_outside_or_logs_an_error(driver: Chrome, address: str, built: Built) -> None:
    wrong = {}
    for page, scheme in itertools.product(book_pages(built.html), ("light", "dark")):
        browser.open_page(driver, f"{address}/{page}", scheme)
        outside = [asked for asked in browser.requests(driver) if not asked.startswith((address, "about:"))]
        if complaints := outside + browser.console_errors(driver):
            wrong[page, scheme] = complaints
    assert wrong == {}


def test_the_log_would_show_a_request_to_the_outside(driver: Chrome, stick: str) -> None:
    open_widgets(driver, stick)
    driver.execute_script("new Image().src = 'https://outside.invalid/pixel.png'")
    WebDriverWait(driver, 10).until(lambda _: any("outside.invalid" in asked for asked in browser.requests(driver)))
    WebDriverWait(driver, 10).until(lambda _: browser.console_errors(driver))


def test_the_page_follows_the_colour_scheme(driver: Chrome, stick: str) -> None:
    backgrounds = []
    for scheme in ("light", "dark"):
        browser.open_page(driver, f"{stick}/{WIDGETS}.html", scheme)
        backgrounds.append(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
        contrast = driver.execute_script(CONTRAST)
        assert min(contrast.values()) >= 4.5, (scheme, contrast)
    assert backgrounds[0] != backgrounds[1]


CONTRAST = """
const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
const light = (color) => rgb(color).slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return rgb(color)[3] === 0 ? behind(element.parentElement) : color;
};
const contrast = (element) => {
    const pair = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
};
const buttons = [".jupyter-button", ".jupyter-button.mod-active"];
const parts = ["figcaption", ".widget-label", ".widget-readout", "select", ...buttons];
return Object.fromEntries(parts.map((part) => [part, contrast(document.querySelector(`.widget-subarea ${part}`))]));
"""


def test_a_slider_moved_by_keyboard_changes_the_visible_frame(driver: Chrome, address: str) -> None:
    open_widgets(driver, address)
    assert driver.execute_script(SHOWN) == ["frame 0"]
    handle = driver.find_element(By.CSS_SELECTOR, '.noUi-handle[aria-label="Threshold"]')
    handle.send_keys(Keys.ARROW_RIGHT)
    WebDriverWait(driver, 5).until(lambda _: driver.execute_script(SHOWN) == ["frame 1"])
    assert handle.get_attribute("aria-valuetext") == "1"
    handle.send_keys(Keys.END)
    WebDriverWait(driver, 5).until(lambda _: driver.execute_script(SHOWN) == ["frame 3"])


def test_play_runs_without_a_kernel(driver: Chrome, stick: str) -> None:
    open_widgets(driver, stick)
    driver.find_element(By.CSS_SELECTOR, '.widget-play [aria-label="Play"]').click()
    WebDriverWait(driver, 10).until(lambda _: driver.execute_script(SHOWN) == ["frame 3"])


def test_an_answer_shows_only_after_the_reader_answered(driver: Chrome, stick: str) -> None:
    open_widgets(driver, stick)
    texts = "return [...document.querySelectorAll('.widget-html-content')].map((e) => e.innerText.trim())"
    assert "right" not in driver.execute_script(texts)
    driver.find_element(By.CSS_SELECTOR, ".widget-radio input[value='0']").click()
    WebDriverWait(driver, 5).until(lambda _: "right" in driver.execute_script(texts))


def test_an_accordion_opens_by_keyboard(driver: Chrome, stick: str) -> None:
    open_widgets(driver, stick)
    header = driver.find_element(By.CSS_SELECTOR, ".jupyter-widget-Collapse-header")
    assert header.get_attribute("aria-expanded") == "false"
    header.send_keys(Keys.ENTER)
    WebDriverWait(driver, 5).until(lambda _: header.get_attribute("aria-expanded") == "true")


def test_every_control_has_a_name_and_says_its_state(driver: Chrome, stick: str, built: Built) -> None:
    for page in book_pages(built.html):
        browser.open_page(driver, f"{stick}/{page}")
        assert driver.execute_script(NAMELESS) == [], page
        unnamed = "return [...document.querySelectorAll('.bd-article img:not([alt])')].map((image) => image.src)"
        assert driver.execute_script(unnamed) == [], page
    open_widgets(driver, stick)
    pressed = [
        button.get_attribute("aria-pressed")
        for button in driver.find_elements(By.CSS_SELECTOR, ".widget-toggle-button")
    ]
    assert pressed == ["true", "false"]
    level = driver.find_element(By.CSS_SELECTOR, '.noUi-handle[aria-label="Level"]')
    assert level.get_attribute("aria-valuetext") == "low"


def test_no_equation_is_an_error_message(driver: Chrome, stick: str, built: Built) -> None:
    wrong = "return [...document.querySelectorAll('[data-mjx-error]')].map((one) => one.dataset.mjxError)"
    for page in book_pages(built.html):
        browser.open_page(driver, f"{stick}/{page}")
        assert driver.execute_script(wrong) == [], page


def test_math_in_a_widget_label_is_typeset(driver: Chrome, stick: str) -> None:
    open_widgets(driver, stick)
    WebDriverWait(driver, 10).until(lambda _: driver.find_elements(By.CSS_SELECTOR, ".widget-label mjx-container"))


STACKED = """
return [...document.querySelectorAll(".bd-article table.stacked")].map((table) => {
    const named = [...table.querySelectorAll(".column-name")].map((name) => name.offsetParent !== null);
    const wide = [table, table.parentElement].some((element) => element.scrollWidth > element.clientWidth);
    return { named: named.every(Boolean), hidden: !named.some(Boolean), wide };
});
"""


def test_on_a_phone_tables_stand_row_by_row_and_do_not_scroll(driver: Chrome, stick: str, built: Built) -> None:
    found = {}
    for page in book_pages(built.html):
        browser.open_page(driver, f"{stick}/{page}", size=browser.PHONE)
        found[page] = driver.execute_script(STACKED)
    assert found["book/scorecard.html"] and found["notebooks/01_cam.html"]
    assert [page for page, tables in found.items() if not all(one["named"] and not one["wide"] for one in tables)] == []
    browser.open_page(driver, f"{stick}/book/scorecard.html", size=browser.DESKTOP)
    assert all(one["hidden"] for one in driver.execute_script(STACKED))


def test_no_page_is_wider_than_a_phone(driver: Chrome, stick: str, built: Built) -> None:
    widths = {}
    for page in book_pages(built.html):
        browser.open_page(driver, f"{stick}/{page}", size=browser.PHONE)
        widths[page] = driver.execute_script("return document.documentElement.scrollWidth")
    assert {page: width for page, width in widths.items() if width > browser.PHONE[0]} == {}
