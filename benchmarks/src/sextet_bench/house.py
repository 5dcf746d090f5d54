"""Where things lie, and what a cell stands on now."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from sextet.data import Passport, recorded_hash
from sextet.recipe import Recipe, module_closure, plain, suggestion
from sextet_bench.record import Identity, newest, read_records
from sextet_bench.tables import Profile, Table, TableError, find_tables, read_table
from sextet_bench.verdict import TableResult, judge


@dataclass(frozen=True)
class House:
    """The folders that the bench works with.

    Attributes:
        root: the checkout.
        tables: table files.
        published: records that stand in the repository.
        runs: everything that is made here: `records`, `stages`, `work`, `report`.
        data_root: where datasets lie; None for the default.
    """

    root: Path
    tables: Path
    published: Path
    runs: Path
    data_root: Path | None = None

    @classmethod
    def of_checkout(cls) -> House:
        """The folders of the checkout that this file belongs to, or of the one that SEXTET_ROOT names."""
        root = Path(os.environ.get("SEXTET_ROOT") or Path(__file__).resolve().parents[3])
        return cls(root, root / "benchmarks/tables", root / "benchmarks/results", root / "runs")

    @property
    def records(self) -> Path:
        """Records measured here."""
        return self.runs / "records"

    def results(self, table: Table, profile_name: str, *, where: Path | None = None) -> TableResult:
        """Verdicts from the records of `where`; by default those measured here and, for the rest, the published."""
        identities, reasons = cell_identities(table, table.profile(profile_name), self.data_root)
        folders = [where] if where else [self.published, self.records]
        records = [record for folder in folders for record in read_records(folder, table.id, profile_name)]
        chosen = newest(records, identities)
        return judge(table, profile_name, chosen, identities, reasons)


def find_recipe(name: str) -> Recipe:
    """The recipe that an installed package offers under this name.

    Raises:
        TableError: there is none; nearest names, or the package to install.
    """
    known = {point.name: point for point in entry_points(group="sextet.recipes")}
    if name not in known:
        raise TableError(f"no installed package offers the recipe {name!r}{suggestion(name, sorted(known))}")
    return known[name].load()


def all_passports(house: House, extra: Mapping[str, Passport]) -> dict[str, Passport]:
    """Every dataset by name: `extra` and those that any cell of any table needs."""
    found = dict(extra)
    for _, passport in _needed(house):
        found[passport.name] = passport
    return dict(sorted(found.items()))


def tables_of_datasets(house: House) -> dict[str, list[str]]:
    """Dataset -> ids of the tables that need it, each with the profiles that do: `fslstm/glyphs (laptop)`."""
    profiles: dict[str, dict[str, list[str]]] = {}
    for (table, profile), passport in _needed(house):
        of_table = profiles.setdefault(passport.name, {}).setdefault(table, [])
        if profile not in of_table:
            of_table.append(profile)
    return {
        name: [f"{table} ({', '.join(names)})" for table, names in tables.items()] for name, tables in profiles.items()
    }


def _needed(house: House) -> Iterator[tuple[tuple[str, str], Passport]]:
    """((table, profile), dataset) for every cell of every table."""
    for path in find_tables(house.tables).values():
        table = read_table(path)
        for name, profile in table.profiles.items():
            recipe = find_recipe(profile.recipe)
            for cell in table.cells:
                for passport in recipe.data(recipe.configure(cell.config(profile))):
                    yield (table.id, name), passport


def cell_identities(
    table: Table, profile: Profile, data_root: Path | None
) -> tuple[dict[str, Identity], dict[str, str]]:
    """(cell -> what its result would stand on now, cell -> why it cannot be run here, where it cannot).

    Datasets that are not here are left out of the identity: nothing can be said of them.
    """
    identities, reasons = {}, {}
    recipe = find_recipe(profile.recipe)
    sources = module_closure(recipe.run.__module__)
    hashes: dict[str, str | None] = {}
    for cell in table.cells:
        config = recipe.configure(cell.config(profile))
        names = [passport.name for passport in recipe.data(config)]
        for passport in recipe.data(config):
            if passport.name not in hashes:
                hashes[passport.name] = recorded_hash(passport, data_root)
        data = {name: content for name in names if (content := hashes[name]) is not None}
        identities[cell.id] = Identity(profile.recipe, plain(config), data, sources)
        missing = sorted(set(names) - set(data))
        if missing:
            reasons[cell.id] = f"data missing: {', '.join(missing)}"
    return identities, reasons
