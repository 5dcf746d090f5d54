from __future__ import annotations

import re
from pathlib import Path

from sextet.data import OPEN
from sextet_bench.dataset_pages import dataset_pages, family_names
from sextet_bench.house import House
from sextet_bench.readme import update_readme


def test_families_are_named_by_what_stands_before_the_dash():
    names = ["mnist", "vtab-a", "vtab-b", "wmt14-de", "other"]
    assert family_names(names) == {
        "mnist": "open", "vtab-a": "vtab", "vtab-b": "vtab", "wmt14-de": "single", "other": "single",
    }  # fmt: skip


def test_every_open_set_has_its_passport_on_a_page(toy):
    pages = {str(path): text for path, text in dataset_pages(toy).items()}
    assert set(pages) == {"datasets.md", "datasets/open.md"}
    for passport in OPEN.values():
        assert f"](datasets/open.md#{passport.name})" in pages["datasets.md"]
        for fact in (f"## {passport.name}\n", passport.licence, passport.homepage, f"data fetch {passport.name}"):
            assert fact in pages["datasets/open.md"]


def test_pages_are_written_checked_and_removed(toy):
    (toy.root / "README.md").write_text("<!-- status:begin -->\n<!-- status:end -->\n")
    (toy.root / "docs/datasets").mkdir(parents=True)
    stray = toy.root / "docs/datasets/gone.md"
    stray.write_text("old")
    assert update_readme(toy, write=False)
    assert stray.exists()
    assert update_readme(toy)
    assert not stray.exists()
    assert not update_readme(toy, write=False)
    page = toy.root / "docs/datasets/open.md"
    page.write_text(page.read_text().replace("CC BY 4.0", "CC0"))
    assert update_readme(toy, write=False)


def test_the_pages_of_the_suite_are_current():
    house = House.of_checkout()
    docs = house.root / "docs"
    expected = dataset_pages(house)
    assert {path.relative_to(docs) for path in [docs / "datasets.md", *docs.glob("datasets/*.md")]} == set(expected)
    for path, text in expected.items():
        assert (docs / path).read_text(encoding="utf-8") == text, f"docs/{path} is old: run `sextet readme`"
    for page, heading in re.findall(r"\]\((datasets/[^#)]+)#([^)]+)\)", expected[Path("datasets.md")]):
        assert f"\n## {heading}\n" in expected[Path(page)]
