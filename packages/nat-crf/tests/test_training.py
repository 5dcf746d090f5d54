"""The training loop, distillation and corpus decoding, on a corpus small enough to be learnt by heart."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nat_crf.autoregressive import Teacher
from nat_crf.config import preset
from nat_crf.corpus_decoding import (
    batches_by_length,
    distil,
    nat_translator,
    teacher_translator,
    translate_all,
)
from nat_crf.models import Nat, warm_start
from nat_crf.objective import ObjectiveConfig
from nat_crf.sequences import pad_batch
from nat_crf.training import (
    Batch,
    BatchAt,
    OptimisationConfig,
    averaged_step,
    fit,
    learning_rate,
    teacher_objective,
    translator_objective,
)

CPU = torch.device("cpu")
SOURCES = [[4 + (i + j) % 6 for j in range(2 + i % 3)] for i in range(24)]
TARGETS = [[word + 1 for word in reversed(row)] for row in SOURCES]
CONFIG = OptimisationConfig(steps=60, lr=5e-3, warmup=5, schedule="linear", save_every=20)
SIZES = {"dim": 32, "ffn_dim": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0, "beam": 4}


def batch_at(boundaries: str) -> BatchAt:
    def batch(step: int) -> Batch:
        rows = torch.randint(len(SOURCES), (12,), generator=torch.Generator().manual_seed(step)).tolist()
        return Batch(*(pad_batch([side[row] for row in rows], boundaries) for side in (SOURCES, TARGETS)))

    return batch


def train_nat(folder: Path, config: OptimisationConfig = CONFIG, crf: str = "none") -> Nat:
    torch.manual_seed(0)
    model = Nat(preset("laptop", crf=crf, **SIZES), 12, 12)
    objective = translator_objective(model, ObjectiveConfig())
    fit(model, objective, batch_at("eos"), config, folder, seed=1, device=CPU, title="test")
    return model


def train_teacher(folder: Path) -> Teacher:
    torch.manual_seed(0)
    teacher = Teacher(preset("laptop", **SIZES).teacher(), 12, 12)
    fit(teacher, teacher_objective(teacher, 0.0), batch_at("eos"), CONFIG, folder, seed=1, device=CPU, title="test")
    return teacher


def test_teacher_nat_and_crf_learn_a_reversed_copy(tmp_path: Path) -> None:
    lengths = [len(row) for row in SOURCES]
    teacher = train_teacher(tmp_path / "teacher")
    translate = teacher_translator(teacher, SOURCES, device=CPU)
    distilled = distil(lengths, translate, tmp_path / "distilled", shard=10)
    assert sum(one == other for one, other in zip(distilled, TARGETS, strict=True)) >= 20
    assert len(list((tmp_path / "distilled").iterdir())) == 3
    nat = train_nat(tmp_path / "nat")
    crf = warm_start(nat, "dynamic")
    fit(
        crf,
        translator_objective(crf, ObjectiveConfig()),
        batch_at("eos"),
        replace(CONFIG, steps=20),
        tmp_path / "crf",
        seed=1,
        device=CPU,
        title="test",
    )
    found = translate_all(lengths, nat_translator(crf, SOURCES, device=CPU, target_lengths=lengths), 100)
    assert sum(one == other for one, other in zip(found, TARGETS, strict=True)) >= 20


@pytest.mark.parametrize("average", [0, 2])
def test_half_and_resumed_equals_whole(tmp_path: Path, average: int) -> None:
    config = replace(CONFIG, average=average, save_every=15)
    whole = train_nat(tmp_path / "whole", config, "static").state_dict()

    class PowerCut(Exception):
        pass

    torch.manual_seed(0)
    model = Nat(preset("laptop", crf="static", **SIZES), 12, 12)
    plain = translator_objective(model, ObjectiveConfig())
    calls: list[int] = []

    def objective(batch: Batch) -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) == 40:
            raise PowerCut
        return dict(plain(batch))

    with pytest.raises(PowerCut):
        fit(model, objective, batch_at("eos"), config, tmp_path / "halves", seed=1, device=CPU, title="test")
    resumed = train_nat(tmp_path / "halves", config, "static").state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_distillation_continues_behind_the_last_shard(tmp_path: Path) -> None:
    asked: list[int] = []

    def translate(batch: list[int]) -> list[list[int]]:
        asked.extend(batch)
        return [[index + 4] for index in batch]

    first = distil([3] * 10, translate, tmp_path, shard=4)
    assert list(first) == [[index + 4] for index in range(10)]
    (tmp_path / "00001.npz").unlink()
    asked.clear()
    assert list(distil([3] * 10, translate, tmp_path, shard=4)) == list(first)
    assert sorted(asked) == [4, 5, 6, 7]
    (tmp_path / "00002.npz").write_bytes(b"torn")
    with pytest.raises(ValueError, match="is damaged"):
        distil([3] * 10, translate, tmp_path, shard=4)


def test_distillation_removes_what_a_killed_one_left_half_written(tmp_path: Path) -> None:
    leftover = tmp_path / ".tmp-4194305-00000000-00000.npz"  # no process has a number above 2**22
    leftover.write_bytes(b"torn")
    distil([3], lambda batch: [[4] for _ in batch], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["00000.npz"]


def test_batches_by_length() -> None:
    assert batches_by_length([3, 1, 2, 9], 6) == [[1, 2], [0], [3]]
    with pytest.raises(ValueError, match="max_tokens"):
        batches_by_length([1], 0)


def test_schedule_and_averaging() -> None:
    linear = replace(CONFIG, warmup=10, steps=110)
    assert [learning_rate(step, linear) for step in (0, 9, 10, 60, 109)] == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.01])
    root = replace(linear, schedule="inverse-sqrt")
    assert [learning_rate(step, root) for step in (4, 9, 39)] == pytest.approx([0.5, 1.0, 0.5])
    config = replace(CONFIG, steps=60, save_every=20, average=2)
    assert [step for step in range(60) if averaged_step(step, config)] == [39, 59]


@pytest.mark.parametrize("change", [{"warmup": 0}, {"warmup": 60}, {"accumulate": 0}, {"schedule": "cosine"}])
def test_bad_settings(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(CONFIG, **change)
