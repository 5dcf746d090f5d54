"""Result records: one JSON file for each (cell, profile, seed), written once and never changed.

A record carries what a statistician needs (the score of every unit) and what it stands on: config, data, the
source files of the method, commit, versions, device. Where one of the first three has changed since, it is stale.
Schema 2; schema 1 did not tell the seconds of shared stages from a run's own.
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sextet.files import write_atomic
from sextet.recipe import Scores, fingerprint

SCHEMA = 2


class RecordError(ValueError):
    """A file that is not a result record of a known schema."""


@dataclass(frozen=True)
class Identity:
    """What determines a result: equal identities on one machine give equal numbers.

    Attributes:
        config: the recipe's whole config, defaults included.
        data: dataset -> content hash, of those that are here.
        sources: module -> SHA-256 of its file, for every file of the method that the recipe imports.
    """

    recipe: str
    config: Mapping[str, Any]
    data: Mapping[str, str]
    sources: Mapping[str, str]

    @property
    def config_hash(self) -> str:
        """SHA-256 of recipe and config."""
        return fingerprint({"recipe": self.recipe, "config": dict(self.config)})

    def changes_since(self, record: Record) -> list[str]:
        """In words, what differs now from what `record` stands on; empty where it is current."""
        changes = []
        if self.config_hash != record.config_hash:
            keys = sorted(k for k in {*self.config, *record.config} if self.config.get(k) != record.config.get(k))
            changes.append(f"config: {', '.join(keys) or 'recipe'}")
        moved = sorted(name for name, content in self.data.items() if record.data.get(name) != content)
        edited = sorted(k for k in {*self.sources, *record.sources} if self.sources.get(k) != record.sources.get(k))
        changes += [f"data: {', '.join(moved)}"] * bool(moved) + [f"source: {', '.join(edited)}"] * bool(edited)
        return changes


@dataclass(frozen=True)
class Record:
    """One measured number. `value`, `standard_error` and `scores` are in the recipe's own scale.

    Attributes:
        wall_s: seconds that the run took, with the shared stages that it built or waited for.
        own_s: the same without them.
        stages: shared stage -> seconds of building it, whichever run did.
    """

    table: str
    cell: str
    profile: str
    seed: int
    metric: str
    value: float
    n: int
    standard_error: float
    unit: str
    scores: tuple[float, ...]
    wall_s: float
    own_s: float
    stages: Mapping[str, float]
    device_s: float
    peak_bytes: int
    recipe: str
    config: Mapping[str, Any]
    config_hash: str
    data: Mapping[str, str]
    sources: Mapping[str, str]
    commit: str
    dirty: bool
    versions: Mapping[str, str]
    device: str
    finished: str
    schema: int = SCHEMA

    @property
    def values(self) -> NDArray[np.float64]:
        """The scores as an array."""
        return np.array(self.scores, dtype=np.float64)

    @property
    def filename(self) -> str:
        """Name of the file: cell, seed, and the hash of what the result stands on."""
        stands_on = fingerprint([self.config_hash, dict(self.data), dict(self.sources)])[:8]
        return f"{self.profile}/{self.cell.replace('/', '.')}.seed{self.seed}.{stands_on}.json"


def make_record(
    task: Mapping[str, Any], identity: Identity, scores: Scores, *, wall_s: float, own_s: float,
    stages: Mapping[str, float], device_s: float, peak_bytes: int, device: str, root: Path,
) -> Record:  # fmt: skip
    """A record of `scores`; `task` gives table, cell, profile, seed and metric."""
    commit, dirty = git_state(root)
    return Record(
        **task,
        value=scores.mean,
        n=len(scores.values),
        standard_error=scores.standard_error,
        unit=scores.unit,
        scores=tuple(round(value, 6) for value in scores.values),
        wall_s=round(wall_s, 3),
        own_s=round(own_s, 3),
        stages=dict(stages),
        device_s=round(device_s, 3),
        peak_bytes=peak_bytes,
        recipe=identity.recipe,
        config=dict(identity.config),
        config_hash=identity.config_hash,
        data=dict(identity.data),
        sources=dict(identity.sources),
        commit=commit,
        dirty=dirty,
        versions={"python": platform.python_version(), **{name: metadata.version(name) for name in ("torch", "numpy")}},
        device=device,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def write_record(folder: Path, record: Record) -> Path:
    """Add a record below `folder`, in one rename; an equal name means an equal foundation, and the newer one stays."""
    path = folder / record.table / record.filename
    write_atomic(path, json.dumps(asdict(record)).encode())
    return path


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        RecordError: naming the file and what is wrong with it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or content.get("schema") not in (1, SCHEMA):
        raise RecordError(f"{path}: expected a result record of schema 1 or {SCHEMA}")
    if content["schema"] == 1:
        content |= {"own_s": content.get("wall_s"), "stages": {}, "schema": SCHEMA}
    names = {item.name for item in fields(Record)}
    if set(content) != names:
        raise RecordError(f"{path}: keys missing or unknown: {', '.join(sorted(names ^ set(content)))}")
    scores = content["scores"]
    if not isinstance(scores, list) or not scores or not all(_is_number(score) for score in scores):
        raise RecordError(f"{path}: scores: expected a list of finite numbers")
    record = Record(**{**content, "scores": tuple(scores)})
    expected = (len(scores), float(np.mean(scores)))
    if record.n != expected[0] or not _is_number(record.value) or abs(record.value - expected[1]) > 1e-5:
        raise RecordError(f"{path}: n and value do not fit its scores: {record.n}, {record.value}, not {expected}")
    return record


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_records(folder: Path, table: str, profile: str) -> list[Record]:
    """All records of a table and profile below `folder`, oldest first."""
    records = [read_record(path) for path in sorted((folder / table / profile).glob("*.json"))]
    return sorted(records, key=lambda record: record.finished)


def newest(records: Iterable[Record], current: Mapping[str, Identity]) -> dict[tuple[str, int], Record]:
    """(cell, seed) -> its newest record; one that is current (by cell identity) goes before any stale one."""
    chosen: dict[tuple[str, int], tuple[bool, Record]] = {}
    for record in records:
        identity = current.get(record.cell)
        fresh = identity is not None and not identity.changes_since(record)
        before = chosen.get((record.cell, record.seed))
        if before is None or fresh >= before[0]:
            chosen[record.cell, record.seed] = (fresh, record)
    return {key: record for key, (_, record) in chosen.items()}


def git_state(root: Path) -> tuple[str, bool]:
    """(commit, whether tracked files differ from it); ("unknown", True) outside a git checkout."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True).stdout.strip()
