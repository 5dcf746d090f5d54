"""Everything behind one number."""

from __future__ import annotations

import json
from pathlib import Path

from sextet.training import read_log
from sextet_bench.house import House, cell_identities
from sextet_bench.run import Task
from sextet_bench.tables import select_tables


def explain(house: House, table_id: str, cell_id: str, profile_name: str) -> str:
    """Config, data, sources, commit, command, scores and log tail of a cell, as text.

    Raises:
        TableError: unknown table, cell or profile.
    """
    (table,) = select_tables(house.tables, (table_id,))
    cell, profile = table.cell(cell_id), table.profile(profile_name)
    result = house.results(table, profile_name).cell(cell_id)
    identity = cell_identities(table, profile, house.data_root)[0][cell_id]
    lines = [
        f"{table.id} {cell_id} ({cell.row.title}, {cell.column.title}), profile {profile_name}",
        f"verdict: {result.verdict.word} {result.verdict.note}".rstrip(),
        f"reference: {cell.reference if cell.reference is not None else 'none'}",
        f"command: sextet run {table.id} --profile {profile_name} --only {cell_id}",
        f"recipe: {profile.recipe}",
        "config: " + json.dumps(dict(identity.config)),
        *(f"data: {name} {content}" for name, content in identity.data.items()),
    ]
    for record in result.records:
        half = 1.96 * record.standard_error * table.scale
        lines.append(
            f"seed {record.seed}: {record.value * table.scale:.2f} ± {half:.2f} {table.unit} over {record.n} "
            f"{record.unit}s, {record.wall_s:.1f} s on {record.device}, commit {record.commit[:10]}"
            f"{' with local changes' if record.dirty else ''}, {record.finished}"
        )
        lines += _log_tail(Task(table, profile_name, cell_id, record.seed).folder(house))
    for name, sha in identity.sources.items():
        lines.append(f"source: {name} {sha[:12]}")
    return "\n".join(lines)


def _log_tail(folder: Path) -> list[str]:
    """The last logged step of every loop that ran in the folder, and the last error, where there was one."""
    logs = {path.parent.name: read_log(path.parent) for path in sorted(folder.rglob("log.jsonl"))}
    lines = [f"  {name}: {entries[-1]}" for name, entries in logs.items() if entries]
    error = folder / "error.log"
    return lines + ([f"  {error}: {error.read_text().splitlines()[-1]}"] if error.exists() else [])
