"""Translation: the teacher, a CRF model, distillation, and the chain of all stages."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.faults.machine import beat
from benchmarks.faults.trainer import SEED, Trainer, accelerator, weights_of
from torch import Tensor

from nat_crf.autoregressive import Teacher
from nat_crf.batches import PairBatches
from nat_crf.config import NatConfig, preset
from nat_crf.corpus_decoding import distil, teacher_translator
from nat_crf.model_folder import load_nat
from nat_crf.models import Nat
from nat_crf.objective import ObjectiveConfig
from nat_crf.pipeline import Pairs, Plan, model_stage
from nat_crf.sentences import Sentences
from nat_crf.sequences import Boundaries
from nat_crf.training import Batch, Objective, OptimisationConfig, fit, teacher_objective, translator_objective
from sextet.recipe import RunContext

SOURCES = [[4 + (i + j) % 6 for j in range(2 + i % 3)] for i in range(48)]
TARGETS = [[word + 1 for word in reversed(row)] for row in SOURCES]
TRAINING = OptimisationConfig(steps=24, lr=5e-3, warmup=4, schedule="linear", accumulate=2, average=2, save_every=5)
STAGE = replace(TRAINING, steps=8, save_every=3, accumulate=1)
SHARD = 4


def network(crf: str) -> NatConfig:
    """One block a side, with dropout."""
    sizes: dict[str, Any] = {"dim": 16, "ffn_dim": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "beam": 4}
    return preset("laptop", crf=crf, dropout=0.1, **sizes)


def new_teacher() -> Teacher:
    """With its first weights."""
    torch.manual_seed(0)
    return Teacher(network("none").teacher(), 12, 12)


def spoiling(objective: Objective, step: int | None) -> Objective:
    """The same, with the second batch of a step NaN."""
    calls = itertools.count()

    def spoilt(batch: Batch) -> dict[str, Tensor]:
        values, call = dict(objective(batch)), next(calls)
        if step is not None and call == TRAINING.accumulate * (step + 1) - 1:
            values["loss"] = values["loss"] * torch.nan
        return values

    return spoilt


def fitted(
    model: Nat | Teacher, objective: Objective, boundaries: Boundaries, folder: Path, device: torch.device
) -> dict[str, Tensor]:
    """Train on batches of similar lengths."""
    batches = PairBatches(SOURCES, TARGETS, boundaries=boundaries, max_tokens=40, seed=SEED)
    fit(
        model, objective, batches, TRAINING, folder, seed=SEED, device=device, title="fitting",
        accelerator=accelerator(), rows=batches.rows,
    )  # fmt: skip
    return weights_of(model)


def teacher(folder: Path, device: torch.device, spoilt: int | None) -> dict[str, Tensor]:
    """The autoregressive teacher; `spoilt` is a step, since words are integers."""
    model = new_teacher()
    return fitted(model, spoiling(teacher_objective(model, 0.1), spoilt), "eos", folder, device)


def dynamic_crf(folder: Path, device: torch.device, spoilt: int | None) -> dict[str, Tensor]:
    """A model with dynamic transitions; `spoilt` is a step."""
    torch.manual_seed(0)
    model = Nat(network("dynamic"), 12, 12)
    objective = spoiling(translator_objective(model, ObjectiveConfig()), spoilt)
    return fitted(model, objective, model.config.boundaries, folder, device)


def distillation(folder: Path, device: torch.device, _spoilt: int | None) -> dict[str, Tensor]:
    """A teacher's translations, shard by shard; a step is a shard."""
    translate = teacher_translator(new_teacher(), SOURCES, device=device)

    def translated(rows: Sequence[int]) -> list[list[int]]:
        found = translate(rows)
        beat()
        return found

    words = distil([len(row) for row in SOURCES], translated, folder, shard=SHARD)
    return {"words": torch.from_numpy(words.words), "ends": torch.from_numpy(words.ends)}


def shards(folder: Path) -> int:
    """That are saved."""
    return len(list(folder.glob("?????.npz")))


def chain(folder: Path, device: torch.device, _spoilt: int | None) -> dict[str, Tensor]:
    """Teacher, distillation, vanilla NAT and dynamic CRF, each a stage."""
    plan = Plan(network=network("none"), teacher=STAGE, start=STAGE, further=STAGE, max_tokens=40)
    pairs = Pairs("made-up", Sentences.of(SOURCES), Sentences.of(TARGETS), 12, 12)
    context = RunContext(folder, folder / "stages", seed=SEED, device=str(device), progress=False)
    return weights_of(load_nat(model_stage(plan, pairs, "dcrf", context)))


TRAINERS = (
    Trainer("nat-crf teacher", teacher, 24, 5, parallel=True),
    Trainer("nat-crf dynamic CRF", dynamic_crf, 24, 5, parallel=True),
    Trainer(
        "nat-crf distillation",
        distillation,
        len(SOURCES) // SHARD,
        1,
        spoilable=False,
        saved=shards,
        one_checkpoint=False,
    ),
    Trainer("nat-crf pipeline", chain, 24, 3, spoilable=False, one_checkpoint=False),
)
