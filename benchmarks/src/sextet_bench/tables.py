"""Table files: what a paper reports and what is measured for it. Data only, no code.

A table is a grid of rows and columns; a cell is one of each. See `docs/tables.md` for the format with an example.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import yaml

from sextet.recipe import suggestion

PROFILES = ("laptop", "overnight", "gpu", "paper")


class TableError(ValueError):
    """A table file, or a name of a table, cell or profile, that is not as it should be."""


@dataclass(frozen=True)
class Line:
    """A row or a column of the grid.

    Attributes:
        id: unique among the rows or columns; part of the cells' ids.
        title: for people.
        config: its part of the cells' config.
        numbers: of a row: reference numbers by column id; null where the source has none.
        skip: of a row: columns it has no cell in.
    """

    id: str
    title: str
    config: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Numbers:
    """Where the reference numbers of a table come from.

    Attributes:
        kind: `paper` for numbers a paper prints, `pilot` for those of an earlier run of the same recipe.
        source: where exactly.
        verified: whether somebody has seen them in that source; unverified numbers are shown and never gate.
        profiles: the profiles whose cells they may be compared with.
        margin: how far a measured mean may lie from them and still count as reproduced, in the table's unit.
        margin_reason: why that far.
    """

    kind: Literal["paper", "pilot"]
    source: str
    verified: bool
    profiles: tuple[str, ...]
    margin: float
    margin_reason: str


@dataclass(frozen=True)
class Profile:
    """One size at which a table can be run.

    Attributes:
        recipe: name of the entry point that runs a cell.
        config: config common to all cells.
        seeds: one run of every cell for each.
        cpus, gpus: what a run occupies; `cpus` is also its number of threads, so results do not depend on the machine.
        memory_gb: memory of a run, which a cluster sets aside for it; 0 where it is small.
        disk_gb: what all runs of the table leave on disk together, datasets apart.
        seconds: expected seconds of a run, for plans made before anything was measured.
        seconds_on: kind of device those seconds are for, one of `benchmarks/devices.yaml`; empty for this machine.
        needs: what somebody must have, in words, where it is more than the open data.
        quick_cells, quick_seeds: the part that `sextet check --quick` runs again.
    """

    recipe: str
    seeds: tuple[int, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    cpus: int = 1
    gpus: int = 0
    memory_gb: float = 0.0
    disk_gb: float = 0.0
    seconds: float = 60.0
    seconds_on: str = ""
    needs: str = ""
    quick_cells: tuple[str, ...] = ()
    quick_seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A statement about two cells, judged on the same episodes, images or sentences.

    Attributes:
        id: unique in the table.
        text: the statement in words.
        left, right: cell ids; the effect is left minus right (sign turned where lower is better).
        kind: `greater`: the effect is more than `by`; `equal`: it lies within -by..by.
        by: threshold in the table's unit.
        says: what the paper claims, in a few words; empty where the claim is ours.
        gate: whether `sextet check` fails when it stops to hold.
    """

    id: str
    text: str
    left: str
    right: str
    kind: Literal["greater", "equal"] = "greater"
    by: float = 0.0
    says: str = ""
    gate: bool = False


@dataclass(frozen=True)
class Series:
    """One line of a figure.

    Attributes:
        title: for people.
        cells: a cell id for each x of the figure; null where the line has no point.
    """

    title: str
    cells: tuple[str | None, ...]


@dataclass(frozen=True)
class Figure:
    """A line picture of cells of the table.

    Attributes:
        id: unique in the table; part of the picture's file name.
        title: for people.
        x_title: what stands below the picture, with its unit.
        x: increasing numbers, or words.
        series: the lines.
        log_x: whether equal ratios of x are equally far apart.
        y_title: what stands beside the picture; empty for the table's metric and unit.
    """

    id: str
    title: str
    x_title: str
    x: tuple[float, ...] | tuple[str, ...]
    series: tuple[Series, ...]
    log_x: bool = False
    y_title: str = ""


@dataclass(frozen=True)
class Cell:
    """One number of a table."""

    id: str
    row: Line
    column: Line
    reference: float | None

    def config(self, profile: Profile) -> dict[str, Any]:
        """The recipe's config: the profile's, then the column's, then the row's."""
        return {**profile.config, **self.column.config, **self.row.config}


@dataclass(frozen=True)
class Table:
    """A table file."""

    paper: str
    name: str
    title: str
    metric: str
    unit: str
    scale: float
    higher_is_better: bool
    rows: tuple[Line, ...]
    columns: tuple[Line, ...]
    profiles: Mapping[str, Profile]
    numbers: Numbers | None = None
    claims: tuple[Claim, ...] = ()
    departures: tuple[str, ...] = ()
    reading: str = ""
    figures: tuple[Figure, ...] = ()

    @property
    def id(self) -> str:
        """`paper/name`, as on the command line."""
        return f"{self.paper}/{self.name}"

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, row by row."""
        return tuple(
            Cell(f"{row.id}/{column.id}", row, column, row.numbers.get(column.id))
            for row in self.rows
            for column in self.columns
            if column.id not in row.skip
        )

    def cell(self, cell_id: str) -> Cell:
        """One cell by its id `row/column`.

        Raises:
            TableError: unknown, with the nearest ids.
        """
        found = {cell.id: cell for cell in self.cells}
        if cell_id not in found:
            raise TableError(f"table {self.id} has no cell {cell_id!r}{suggestion(cell_id, found)}")
        return found[cell_id]

    def profile(self, name: str) -> Profile:
        """One profile by its name.

        Raises:
            TableError: unknown, or this table does not have it.
        """
        if name not in PROFILES:
            raise TableError(f"unknown profile {name!r}{suggestion(name, PROFILES)}")
        if name not in self.profiles:
            raise TableError(f"table {self.id} has no profile {name}; it has {', '.join(self.profiles)}")
        return self.profiles[name]


def read_table(path: Path) -> Table:
    """Read and check a table file.

    Raises:
        TableError: naming the file, the place and what was expected there.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TableError(f"{path}: cannot be read as YAML ({error})") from error
    try:
        return _table(content)
    except (TableError, TypeError) as error:
        raise TableError(f"{path}: {error}") from error


def find_tables(folder: Path) -> dict[str, Path]:
    """Table id -> file, for every `<folder>/<paper>/<name>.yaml`."""
    return {f"{path.parent.name}/{path.stem}": path for path in sorted(folder.glob("*/*.yaml"))}


def select_tables(folder: Path, names: tuple[str, ...]) -> list[Table]:
    """The tables of these names: `paper/table` (or `paper-table`, or `table`), `paper` for all of a paper, or `all`.

    The beginning of a table's name, up to a dash, stands for all tables that begin so, `wmt14` for `wmt14-en-de` and
    `wmt14-de-en`; unless it is the whole name of a table, which stands for that one.

    Raises:
        TableError: an unknown name, with the nearest ones.
    """
    known = find_tables(folder)
    chosen: dict[str, Path] = {}
    for name in names or ("all",):
        fits = {key: _fit(name, key) for key in known}
        matching = {key: known[key] for key, fit in fits.items() if fit and fit == max(fits.values())}
        if not matching:
            papers = {key.partition("/")[0] for key in known}
            raise TableError(f"unknown table {name!r}{suggestion(name, sorted({*known, *papers, 'all'}))}")
        chosen.update(matching)
    return [read_table(path) for path in chosen.values()]


def _fit(name: str, key: str) -> int:
    """How well `name` means the table `key`: 2 for its name, 1 for what it begins with or belongs to, 0 for not."""
    paper, _, table = key.partition("/")
    rest = name.removeprefix(f"{paper}/").removeprefix(f"{paper}-")
    return 2 * (rest == table) or int(name in ("all", paper) or table.startswith(f"{rest}-"))


def tables_with(folder: Path, names: tuple[str, ...], profile: str) -> list[Table]:
    """Those of `select_tables` that have a profile.

    Raises:
        TableError: no such profile, or none of the tables has it.
    """
    if profile not in PROFILES:
        raise TableError(f"unknown profile {profile!r}{suggestion(profile, PROFILES)}")
    tables = select_tables(folder, names)
    chosen = [table for table in tables if profile in table.profiles]
    if not chosen:
        there = [name for name in PROFILES if any(name in table.profiles for table in tables)]
        raise TableError(
            f"none of the tables {', '.join(table.id for table in tables)} has the profile {profile}; ask for "
            f"{' or '.join(there)} (--profile, or PROFILE= with make)"
        )
    return chosen


def _table(content: Any) -> Table:
    values = _mapping(content, "the file")
    values["rows"] = tuple(_build(Line, item, "rows") for item in _list(values.get("rows"), "rows"))
    values["columns"] = tuple(_build(Line, item, "columns") for item in _list(values.get("columns"), "columns"))
    values["profiles"] = {
        name: _build(Profile, item, f"profiles.{name}")
        for name, item in _mapping(values.get("profiles"), "profiles").items()
    }
    if values.get("numbers") is not None:
        values["numbers"] = _build(Numbers, values["numbers"], "numbers")
    values["claims"] = tuple(_build(Claim, item, "claims") for item in _list(values.get("claims", []), "claims"))
    values["figures"] = tuple(_figure(item) for item in _list(values.get("figures", []), "figures"))
    table = _build(Table, values, "the file")
    _check(table)
    return table


def _check(table: Table) -> None:
    """What the types alone do not say."""
    for group, ids in (
        ("rows", [row.id for row in table.rows]),
        ("columns", [column.id for column in table.columns]),
        ("claims", [claim.id for claim in table.claims]),
        ("figures", [figure.id for figure in table.figures]),
    ):
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise TableError(f"{group}: ids stand twice: {', '.join(twice)}")
    for name, profile in table.profiles.items():
        table.profile(name)
        for cell in profile.quick_cells:
            table.cell(cell)
    columns = {column.id for column in table.columns}
    for row in table.rows:
        unknown = sorted({*row.numbers, *row.skip} - columns)
        if unknown:
            raise TableError(f"rows.{row.id}: no such column: {', '.join(unknown)}")
        if row.numbers and table.numbers is None:
            raise TableError(f"rows.{row.id}.numbers: the table does not say where its numbers come from (numbers:)")
    for claim in table.claims:
        table.cell(claim.left)
        table.cell(claim.right)
        if claim.kind not in ("greater", "equal") or (claim.kind == "equal" and claim.by <= 0):
            raise TableError(f"claims.{claim.id}: kind is greater, or equal with by > 0; got {claim.kind}, {claim.by}")
    for figure in table.figures:
        _check_figure(table, figure)


def _figure(content: Any) -> Figure:
    values = _mapping(content, "figures")
    place = f"figures.{values.get('id')}"
    series = _list(values.get("series"), f"{place}.series")
    return _build(Figure, {**values, "series": [_build(Series, item, f"{place}.series") for item in series]}, "figures")


def _check_figure(table: Table, figure: Figure) -> None:
    place = f"figures.{figure.id}"
    if not isinstance(figure.id, str) or not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", figure.id):
        raise TableError(f"{place}: an id is small letters, digits, dots and dashes, since it names a file")
    x = figure.x if isinstance(figure.x, tuple) else ()
    numbers = [float(value) for value in x if type(value) in (int, float)]
    if len(x) < 2 or not (len(numbers) == len(x) or all(isinstance(value, str) for value in x)):
        raise TableError(f"{place}.x: expected two or more numbers, or two or more words, got {figure.x!r}")
    if any(not low < high for low, high in pairwise(numbers)):
        raise TableError(f"{place}.x: expected increasing numbers, got {list(x)}")
    if figure.log_x and not (numbers and numbers[0] > 0):
        raise TableError(f"{place}.log_x: expected positive numbers as x, got {list(x)}")
    if not figure.series:
        raise TableError(f"{place}.series: expected at least one")
    for series in figure.series:
        if not isinstance(series.cells, tuple) or len(series.cells) != len(x):
            raise TableError(f"{place}.series: {series.title}: expected a cell (or null) for each of {len(x)} x")
        known = [cell.id for cell in table.cells]
        for cell in series.cells:
            if cell is not None and cell not in known:
                raise TableError(f"{place}.series: {series.title}: no cell {cell!r}{suggestion(str(cell), known)}")


def _build(kind: type, content: Any, place: str) -> Any:
    """Instance of a frozen dataclass from a mapping; lists become tuples, unknown and missing keys are named."""
    values = _mapping(content, place)
    fields = kind.__dataclass_fields__
    for key in values:
        if key not in fields:
            raise TableError(f"{place}: unknown key {key!r}{suggestion(str(key), list(fields))}")
    where = f"{place}.{values['id']}" if "id" in values else place
    try:
        values |= {"title": str(values["title"])} if "title" in values else {}  # YAML takes a bare 8 for a number
        return kind(**{key: tuple(item) if isinstance(item, list) else item for key, item in values.items()})
    except TypeError as error:
        raise TableError(f"{where}: {str(error).replace(kind.__name__ + '.__init__()', 'it')}") from error


def _mapping(content: Any, place: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise TableError(f"{place}: expected a mapping, got {type(content).__name__}")
    return dict(content)


def _list(content: Any, place: str) -> list[Any]:
    if not isinstance(content, list):
        raise TableError(f"{place}: expected a list, got {type(content).__name__}")
    return content
