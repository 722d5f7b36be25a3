"""The page of ``anprompt report`` in a real browser: no error, no request, and readable on a phone, in the dark and in
print. Skipped where there is no Chromium with its driver."""

from __future__ import annotations

import base64
import io
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anprompt.cli import run
from helpers_cli import write_photos

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PHONE, DESK = (390, 844), (1280, 900)
LONG = "a class with a name that is longer than a phone is wide, and then some"


class Browser:
    """Chromium without a window."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def show(self, page: Path, size: tuple[int, int], scheme: str = "light", scripts: bool = True) -> None:
        """Open a file as on a screen of ``size``."""
        device = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.command("Emulation.setDeviceMetricsOverride", **device)
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.command("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.driver.get(page.as_uri())
        if scripts:  # on a busy machine the driver may come back before the page is whole
            from selenium.webdriver.support.wait import WebDriverWait

            WebDriverWait(self.driver, 30).until(lambda _: self.value("document.readyState") == "complete")

    def command(self, name: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, parameters)

    def value(self, script: str) -> Any:
        return self.driver.execute_script(f"return {script}")

    def picture(self) -> np.ndarray:
        """A screenshot, ``(H, W, 3)``."""
        found = self.command("Page.captureScreenshot", format="png")["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(found))).convert("RGB"))

    def console(self) -> list[str]:
        """What the browser complained about since the last time."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requested(self, page: Path) -> set[str]:
        """Everything that ``page`` asked for since the last time, pictures inside of it left out."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return {
            one["request"]["url"] for one in sent
            if one.get("documentURL", "").startswith(page.as_uri()) and not one["request"]["url"].startswith("data:")
        }  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    starter = shutil.which("chromedriver")
    if program is None or starter is None:
        pytest.skip(f"no Chromium here ({' or '.join(BROWSERS)}) with its chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(starter))
    driver.set_page_load_timeout(60)
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def report(adapter: Path, *options: str) -> Path:
    page = adapter.parent / "report.html"
    with warnings.catch_warnings(action="ignore"):
        assert run(["report", str(adapter), "-o", str(page), *options]) == 0
    return page


@pytest.fixture(scope="module")
def page(small_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With every part: a trained adapter, four classes."""
    adapter = tmp_path_factory.mktemp("all parts") / "adapter"
    shutil.copytree(small_adapter, adapter)
    return report(adapter)


@pytest.fixture(scope="module")
def long_page(small_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-five classes, some with long names: a table in a box of its own and no matrix; maps for the mistakes."""
    root = tmp_path_factory.mktemp("many classes")
    names = [f"{'longestnameofall' * 4} {i}" if i % 9 == 0 else f"{LONG} {i}" if i % 3 == 0 else f"class {i}"
             for i in range(45)]  # fmt: skip
    for split in ("train", "test"):
        write_photos(root / "photos" / split, names, 1 + (split == "test"))
    line = ["fit", str(root / "photos"), "--backbone", str(small_clip), "--method", "zero-shot"]
    with warnings.catch_warnings(action="ignore"):
        assert run([*line, "--out", str(root / "adapter")]) == 0
    return report(root / "adapter", "--noises", "typo")


@pytest.fixture(params=["page", "long_page"])
def any_page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "light"), (PHONE, "dark"), (DESK, "light"), (DESK, "dark")])
def test_it_shows_without_an_error_and_without_a_request(
    browser: Browser, any_page: Path, size: tuple[int, int], scheme: str
) -> None:
    browser.console(), browser.requested(any_page)
    browser.show(any_page, size, scheme)
    assert browser.value("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert browser.value("document.documentElement.classList.contains('js')")
    assert browser.console() == []
    assert browser.requested(any_page) == {any_page.as_uri()}
    assert browser.value("innerWidth") == size[0]
    assert browser.value("document.scrollingElement.scrollWidth") <= size[0]
    shown = browser.picture()
    assert shown.shape == (size[1], size[0], 3)
    assert (shown[:, :5].mean() < 60) == (scheme == "dark")  # the margin is paper
    assert 0.01 < (np.abs(shown.astype(int) - shown[0, 0]).max(axis=2) > 60).mean() < 0.7


def test_other_pages_would_be_refused(browser: Browser, page: Path) -> None:
    """The page's policy, not only its content, keeps it from loading anything."""
    broken = page.with_name("broken.html")
    text = page.read_text(encoding="utf-8")
    broken.write_text(text.replace("</body>", '<script>document.title = "run"</script><img src="other.png"></body>'))
    browser.console()
    browser.show(broken, DESK)
    complaints = browser.console()
    assert len([line for line in complaints if "Content Security Policy" in line]) == 2
    assert browser.value("document.title") != "run"


def test_a_click_sorts_the_table(browser: Browser, page: Path) -> None:
    browser.show(page, DESK)
    column = "[...document.querySelectorAll('#classes tbody tr')].map(row => row.cells[0].textContent)"
    names = browser.value(column)
    browser.driver.execute_script("document.querySelector('#classes thead button').click()")
    assert browser.value(column) == sorted(names)
    assert browser.value("document.querySelector('#classes thead th').getAttribute('aria-sort')") == "ascending"
    browser.driver.execute_script("document.querySelector('#classes thead button').click()")
    assert browser.value(column) == sorted(names, reverse=True)
    photos = "[...document.querySelectorAll('#classes tbody tr')].map(row => parseFloat(row.cells[2].textContent))"
    browser.driver.execute_script("document.querySelectorAll('#classes thead button')[2].click()")
    assert browser.value(photos) == sorted(browser.value(photos), reverse=True)


def test_it_needs_no_script(browser: Browser, page: Path) -> None:
    browser.show(page, PHONE, scripts=False)
    shown = browser.picture()
    browser.command("Emulation.setScriptExecutionDisabled", value=False)
    assert not browser.value("document.documentElement.classList.contains('js')")
    assert browser.value("document.querySelectorAll('thead button').length") == 0
    assert (np.abs(shown.astype(int) - shown[0, 0]).max(axis=2) > 60).mean() > 0.01


def test_it_prints_on_white_without_cutting_tables(browser: Browser, any_page: Path) -> None:
    browser.show(any_page, DESK, "dark")
    browser.command(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    cut = (
        "[...document.querySelectorAll('.scroll')].filter(box => getComputedStyle(box).overflowY !== 'visible').length"
    )
    assert browser.value(cut) == 0
    assert browser.value("getComputedStyle(document.querySelector('figure')).breakInside") == "avoid"
    browser.command("Emulation.setEmulatedMedia", media="")
    printed = base64.b64decode(browser.command("Page.printToPDF", printBackground=False)["data"])
    assert printed.startswith(b"%PDF-")
    assert len(printed) > 20_000
