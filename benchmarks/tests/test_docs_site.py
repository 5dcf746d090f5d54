"""The documentation as a site: it builds without a warning, loads nothing from elsewhere, and its pages are whole."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from sextet_bench.house import House

ROOT = House.of_checkout().root
PAPERS = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
REMOTE = re.compile(r"^(https?:)?//")


class Loads(HTMLParser):
    """Addresses that a browser would load by itself."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        loads = tag != "a" and not (tag == "link" and values.get("rel") in ("canonical", "next", "prev"))
        self.found += [values[name] for name in ("src", "href") if loads and values.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed (docs/requirements.txt)")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 12
    for page in pages:
        parser = Loads()
        parser.feed(page.read_text(encoding="utf-8"))
        assert [address for address in parser.found if REMOTE.match(address)] == [], page.name
    for sheet in site.rglob("*.css"):
        addresses = re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", sheet.read_text(encoding="utf-8"))
        assert [address for address in addresses if REMOTE.match(address)] == [], sheet.name


@pytest.mark.slow
def test_the_site_has_every_paper_and_dataset_family(site):
    for name in (*PAPERS, "index", "add-a-paper", "architecture", "datasets", "datasets/open"):
        assert (site / f"{name}.html").exists()


def test_the_navigation_names_every_page_once():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"[\w-]+\.md\b", text[text.index("\nnav:") : text.index("\nnot_in_nav:")])
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    assert yaml.safe_load(text)["theme"]["font"] is False


def test_pictures_and_links_within_the_documentation_exist():
    for page in (ROOT / "docs").rglob("*.md"):
        text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if not REMOTE.match(target):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
