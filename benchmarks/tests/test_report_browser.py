"""The report in a real browser. Needs chromium, chromedriver and the dependency group `report`: `make test-report`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from test_report import SPEED
from toy_checkout import TABLE, write_table

from sextet_bench.house import House
from sextet_bench.report import write_report
from sextet_bench.run import plan_tasks, run_here
from sextet_bench.tables import read_table

selenium = pytest.importorskip("selenium", reason="selenium is not installed (uv sync --group report)")
CHROMIUM = os.environ.get("SEXTET_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = os.environ.get("SEXTET_CHROMEDRIVER") or shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"),
    pytest.mark.slow,
]
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def built() -> dict[str, Path]:
    """The page, once it is built; the tests only read it."""
    return {}


@pytest.fixture
def page(request, built, tmp_path_factory):
    """The report of two papers: one measured with a figure, curves and speed, one not run."""
    if "page" not in built:
        built["page"] = build(request.getfixturevalue("toy"), tmp_path_factory.mktemp("report"))
    return built["page"]


def build(toy: House, folder: Path) -> Path:
    content = yaml.safe_load(TABLE)
    content["profiles"]["laptop"]["config"] = {"steps": 4}
    content["columns"] += [{"id": "b", "title": "B"}]
    content["claims"] += [
        {"id": "worse", "text": "bad over good", "left": "bad/b", "right": "good/b"},
        {"id": "alike", "text": "good as good", "left": "good/a", "right": "good/b", "kind": "equal", "by": 1.0},
    ]
    series = [{"title": name, "cells": [f"{name}/a", f"{name}/b"]} for name in ("good", "bad")]
    content["figures"] = [{"id": "two", "title": "Two", "x_title": "letter", "x": ["a", "b"], "series": series}]
    table = read_table(write_table(toy.root, yaml.safe_dump(content)))
    other = {**content, "paper": "other", "name": "rest", "title": "Something else", "claims": [], "figures": []}
    write_table(toy.root, yaml.safe_dump(other), "other/rest")
    speeds = toy.root / "benchmarks/speed/results"
    speeds.mkdir(parents=True)
    (speeds / "toy.json").write_text(json.dumps(SPEED))
    list(run_here(toy, plan_tasks(toy, table, "laptop")[0]))
    write_report(folder, [], toy)
    return folder / "report.html"


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--window-size=1400,1000"):
        options.add_argument(flag)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield chrome
    chrome.quit()


@pytest.fixture
def browser(driver):
    """The browser, as it was when it was started."""
    yield driver
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.get("about:blank")
    driver.get_log("browser")


def texts(driver, selector: str) -> list[str]:
    """Text of the visible elements of a CSS selector."""
    return [element.text for element in driver.find_elements("css selector", selector) if element.is_displayed()]


def column(driver, table: str, index: int) -> list[str]:
    return texts(driver, f"{table} tbody tr > :nth-child({index})")


def press(driver, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(driver).send_keys(*keys).perform()


def colour(driver, name: str) -> str:
    return driver.execute_script(f"return getComputedStyle(document.body).{name}")


def test_what_a_reader_meets(browser, page):
    browser.get(page.as_uri())
    assert texts(browser, "h1") == ["Six papers, measured"]
    assert "2 of 3 measured claims hold, 1 do not" in texts(browser, ".lead")[0]
    assert column(browser, "#overview", 2) == ["rest", "main"]
    assert texts(browser, "#claims tbody .verdict") == ["holds", "does not hold", "holds"]
    assert len(browser.find_elements("css selector", "#toy-main-laptop .chart-figure svg.chart")) == 3
    assert len(browser.find_elements("css selector", "#claims svg.interval")) == 3
    assert "3.00 [2.50, 3.50]" in column(browser, "#speed", 5)
    assert texts(browser, ".tools output") == ["2 of 2 tables, 3 of 3 claims"]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_a_click_on_a_heading_sorts_up_then_down(browser, page):
    browser.get(page.as_uri())
    button = browser.find_elements("css selector", "#claims thead button")[5]
    assert button.text.startswith("effect [95%]")
    effects = lambda: [float(text.split()[0]) for text in column(browser, "#claims", 6)]  # noqa: E731
    before = effects()
    button.click()
    assert effects() == sorted(before) != before
    assert button.find_element("xpath", "..").get_attribute("aria-sort") == "ascending"
    button.click()
    assert effects() == sorted(before, reverse=True)


def test_numbers_sort_as_numbers_and_empty_cells_stay_last(browser, page):
    browser.get(page.as_uri())
    heads = browser.find_elements("css selector", "#overview thead tr:last-child th")
    took = next(index for index, head in enumerate(heads) if head.text.startswith("took"))
    for _ in range(2):
        heads[took].find_element("css selector", "button").click()
        assert column(browser, "#overview", 2) == ["main", "rest"]
    assert browser.get_log("browser") == []


def test_filters_by_paper_verdict_and_words(browser, page):
    from selenium.webdriver.support.ui import Select

    browser.get(page.as_uri())
    paper, verdict = (Select(browser.find_element("name", name)) for name in ("paper", "verdict"))
    paper.select_by_visible_text("other")
    assert column(browser, "#overview", 2) == ["rest"]
    assert texts(browser, "#claims tbody tr") == []
    assert not browser.find_element("id", "toy-main-laptop").is_displayed()
    browser.find_element("name", "all").click()
    verdict.select_by_visible_text("does not hold")
    assert column(browser, "#overview", 2) == ["main"]
    assert column(browser, "#claims", 1) == ["bad over good"]
    assert texts(browser, ".tools output") == ["1 of 2 tables, 1 of 3 claims"]
    browser.find_element("name", "all").click()
    browser.find_element("name", "text").send_keys("Something ELSE")
    assert column(browser, "#overview", 2) == ["rest"]


def test_the_keyboard_reaches_everything(browser, page):
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    press(browser, Keys.TAB)
    assert browser.switch_to.active_element.text == "to the overview"
    press(browser, "/", "good as")
    assert column(browser, "#claims", 1) == ["good as good"]
    press(browser, Keys.ESCAPE)
    assert len(column(browser, "#claims", 1)) == 3
    button = browser.find_element("css selector", "#claims thead button")
    browser.execute_script("arguments[0].focus()", button)
    press(browser, Keys.ENTER)
    assert column(browser, "#claims", 1) == ["bad over good", "good as good", "good over bad"]
    summary = browser.find_element("css selector", "#toy-main-laptop td summary")
    browser.execute_script("arguments[0].focus()", summary)
    assert "sextet explain toy/main/good/a" not in browser.find_element("css selector", "#toy-main-laptop").text
    press(browser, Keys.ENTER)
    assert "sextet explain toy/main/good/a" in browser.find_element("css selector", "#toy-main-laptop").text


def test_a_link_opens_the_section_it_leads_to(browser, page):
    browser.get(page.as_uri())
    details = browser.find_element("css selector", "#other-rest-laptop details")
    assert details.get_attribute("open") is None
    browser.find_element("link text", "rest").click()
    assert details.get_attribute("open") is not None


def test_dark_mode_follows_the_system_and_the_button(browser, page):
    for scheme, ground in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(13, 17, 23)")):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(page.as_uri())
        assert colour(browser, "backgroundColor") == ground
    browser.find_element("name", "theme").click()
    assert colour(browser, "backgroundColor") == "rgb(255, 255, 255)"
    assert colour(browser, "color") == "rgb(31, 35, 40)"


def test_it_reads_without_scripts(browser, page):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(page.as_uri())
    assert column(browser, "#overview", 2) == ["rest", "main"]
    assert len(texts(browser, "#claims tbody tr")) == 3
    assert not browser.find_element("css selector", ".tools").is_displayed()
    browser.find_element("css selector", "#other-rest-laptop summary").click()
    assert "paper 3" in browser.find_element("id", "other-rest-laptop").text


@pytest.mark.parametrize("width", [1400, 400])
def test_a_screenshot_shows_colours_and_nothing_overflows(browser, page, tmp_path, width):
    import matplotlib.image
    import numpy as np

    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri() + "#claims")
    folder = Path(os.environ.get("SEXTET_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"report-{width}.png"
    assert browser.save_screenshot(str(target))
    pixels = (matplotlib.image.imread(target)[..., :3] * 255).round().astype(int)
    assert pixels.shape == (900, width, 3)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    if width == 1400:
        for wanted in ((26, 127, 55), (207, 34, 46)):  # holds, does not hold
            assert (np.abs(pixels - wanted).sum(-1) < 12).sum() > 50


@pytest.mark.timeout(600)
def test_the_whole_page_of_the_suite_is_quick(browser, tmp_path):
    """Thirty-five tables with hundreds of numbers: loaded, sorted and filtered without a pause."""
    write_report(tmp_path / "whole", [], House.of_checkout())
    browser.get((tmp_path / "whole/report.html").as_uri())
    assert browser.get_log("browser") == []
    seconds = "const t = performance.now(); {}; return (performance.now() - t) / 1000"
    sorting = "document.querySelectorAll('#overview thead button').forEach(button => button.click())"
    typing = "const box = document.querySelector('[name=text]'); box.value = 'a'; box.dispatchEvent(new Event('input'))"
    assert browser.execute_script(seconds.format(sorting)) < 2
    assert browser.execute_script(seconds.format(typing)) < 1
    assert (tmp_path / "whole/report.html").stat().st_size < 5e6
