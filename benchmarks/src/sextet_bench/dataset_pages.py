"""The documentation's pages on datasets, written from the passports: an index, and one page a family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from sextet.data import OPEN, Passport
from sextet_bench.house import House, all_passports, tables_of_datasets
from sextet_bench.report import markdown_table

NOTE = "<!-- written by `sextet readme` from the passports in the code; do not edit -->"
TITLES = {
    "open": "Open sets that need no manual step",
    "catalogues": "Message catalogues of free software",
    "cdfsl": "Cross-domain few-shot sets",
    "fewshot": "Fine-grained few-shot sets",
    "vtab": "VTAB-1K",
    "single": "Other sets",
}


def dataset_pages(house: House) -> dict[Path, str]:
    """Path below docs -> content, for `datasets.md` and `datasets/<family>.md`."""
    passports = all_passports(house, OPEN)
    tables = tables_of_datasets(house)
    families: dict[str, list[Passport]] = {}
    names = family_names(list(passports))
    for name, passport in passports.items():
        families.setdefault(names[name], []).append(passport)
    order = sorted(families, key=lambda family: (family != "open", family == "single", family))
    pages = {Path(f"datasets/{family}.md"): _family_page(family, families[family], tables) for family in order}
    return {Path("datasets.md"): _index({family: families[family] for family in order}, tables), **pages}


def family_names(names: Sequence[str]) -> dict[str, str]:
    """Dataset -> family: `open` for the sets that come by themselves, else what stands before the first dash.

    Where only one set begins so, it belongs to `single`.
    """
    first = {name: name.partition("-")[0] for name in names}
    sizes = Counter(first[name] for name in names if name not in OPEN)
    return {name: "open" if name in OPEN else first[name] if sizes[first[name]] > 1 else "single" for name in names}


def family_title(family: str) -> str:
    """Heading of a family's page."""
    return TITLES.get(family, f"The sets {family}-…")


def _index(families: Mapping[str, Sequence[Passport]], tables: Mapping[str, Sequence[str]]) -> str:
    lines = [NOTE, "", "# Datasets", ""]
    lines += ["`sextet data list` says which of them are here. How they lie on disk: [Data](data.md).", ""]
    for family, passports in families.items():
        lines += [f"## {family_title(family)}", ""]
        rows = [
            (
                f"[`{passport.name}`](datasets/{family}.md#{passport.name})",
                passport.title,
                passport.size,
                passport.licence,
                str(len(tables.get(passport.name, ()))),
            )
            for passport in passports
        ]
        lines += [*markdown_table(("set", "what", "size", "licence", "tables"), rows), ""]
    return "\n".join(lines)


def _family_page(family: str, passports: Sequence[Passport], tables: Mapping[str, Sequence[str]]) -> str:
    lines = [NOTE, "", f"# {family_title(family)}", ""]
    for passport in passports:
        lines += [*_entry(passport, tables.get(passport.name, ())), ""]
    return "\n".join(lines)


def _entry(passport: Passport, tables: Sequence[str]) -> list[str]:
    """Everything that a passport says of one set."""
    lines = [f"## {passport.name}", "", f"{passport.title}.", ""]
    lines += [f"- homepage: <{passport.homepage}>", f"- licence: {passport.licence}", f"- size: {passport.size}"]
    lines += [f"- comes from: {source.describe()}" for source in passport.sources]
    if not passport.sources:
        lines.append("- comes by hand: its licence or its homepage does not let a program fetch it")
    if passport.counts:
        lines.append("- counts: " + ", ".join(f"{count:,} {name}" for name, count in passport.counts.items()))
    if passport.class_names:
        lines.append(f"- classes: {len(passport.class_names)}")
    content = passport.content_sha256
    lines.append(f"- content: SHA-256 `{content}`" if content else "- content: hashed when it is adopted or built")
    lines.append(f"- tables: {', '.join(f'`{table}`' for table in tables) or 'none yet'}")
    command = f"sextet data fetch {passport.name}" if passport.sources else f"sextet data adopt {passport.name} FOLDER"
    return [*lines, "", f"{passport.instructions.strip()}", "", "```sh", command, "```"]
