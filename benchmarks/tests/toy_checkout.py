"""A small checkout with one table, whose recipe is quick and can be told to fail, wait or need data."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sextet_bench.house import House
from sextet_bench.record import read_records
from sextet_bench.tables import Table, read_table

RECIPE = """
import os, time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sextet.data import DataMissing, Passport
from sextet.recipe import Recipe, Scores
from sextet.training import Training


@dataclass(frozen=True)
class Config:
    offset: float = 0.0
    spread: float = 1.0
    steps: int = 0
    needs: str = ""
    fail: str = ""


def run(config, context):
    if config.fail:
        raise RuntimeError(config.fail)
    if config.needs:
        raise DataMissing(f"{config.needs}: put it there")
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    state = {"optimizer": optimizer, "module": torch.nn.ParameterList([weight])}
    with Training(context.directory, steps=config.steps, state=state, save_every=2) as training:
        for step in training:
            time.sleep(0.05)
            loss = (weight - 1) ** 2 + 0.01 * torch.rand(())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            training.log(loss=loss)
    build = lambda folder: np.save(folder / "x.npy", noise(context.seed))
    shared = context.stage("noise", {"seed": context.seed}, build)
    scores = config.offset + weight.item() + config.spread * np.load(shared / "x.npy")
    return {"accuracy": Scores(tuple(scores.tolist()))}


def noise(seed):
    return np.random.default_rng(seed).normal(size=50)


RECIPE = Recipe(config=Config, run=run, data=lambda config: ())
"""

TABLE = """
paper: toy
name: main
title: A toy
metric: accuracy
unit: points
scale: 1
higher_is_better: true
numbers: {kind: paper, source: nowhere, verified: true, profiles: [laptop], margin: 2.0, margin_reason: it is a toy}
profiles:
  laptop: {recipe: toy, seeds: [1, 2, 3], seconds: 1, quick_cells: [good/a, bad/a], quick_seeds: [1]}
columns:
  - {id: a, title: A}
rows:
  - {id: good, title: Good, config: {offset: 3.0}, numbers: {a: 3.0}}
  - {id: bad, title: Bad, config: {offset: 0.0}, numbers: {a: 20.0}}
claims:
  - {id: better, text: good over bad, left: good/a, right: bad/a, by: 1.0, says: it is better, gate: true}
"""


def change(toy: House, profile: Mapping[str, Any] | None = None, **cells: Mapping[str, Any]) -> Table:
    """Rewrite the toy table with other settings of its profile and other configs by row, and read it."""
    content = yaml.safe_load(TABLE)
    content["profiles"]["laptop"] |= profile or {}
    for row in content["rows"]:
        row["config"] |= cells.get(row["id"], {})
    return read_table(write_table(toy.root, yaml.safe_dump(content)))


def numbers(toy: House) -> dict[tuple[str, int], tuple[float, ...]]:
    """(cell, seed) -> scores of the records measured there."""
    records = read_records(toy.records, "toy/main", "laptop")
    return {(record.cell, record.seed): record.scores for record in records}


def write_table(root: Path, text: str, name: str = "toy/main") -> Path:
    """Put a table file into the checkout."""
    path = root / "benchmarks/tables" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path
