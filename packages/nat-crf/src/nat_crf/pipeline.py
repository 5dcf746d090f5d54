"""From sentence pairs to trained models, as stages that runs share: teacher, distillation, NAT, CRF (Section 4.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from nat_crf.autoregressive import Teacher
from nat_crf.batches import PairBatches
from nat_crf.config import NatConfig
from nat_crf.corpus_decoding import BatchTranslator, distil, nat_translator, teacher_translator
from nat_crf.model_folder import load_nat, load_teacher, save_model
from nat_crf.models import Nat, warm_start
from nat_crf.objective import ObjectiveConfig
from nat_crf.rescoring import teacher_scorer
from nat_crf.sentences import Sentences
from nat_crf.sequences import Boundaries, Words
from nat_crf.training import Objective, OptimisationConfig, fit, teacher_objective, translator_objective
from sextet.cuda import select_device
from sextet.recipe import RunContext

Kind = Literal["teacher", "nat-start", "nat", "crf", "dcrf"]
_CRF: dict[Kind, Literal["static", "dynamic"]] = {"crf": "static", "dcrf": "dynamic"}


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs to train on.

    Attributes:
        name: of the stage that made them; it stands for their content.
        sources, references: word ids.
        source_vocab, target_vocab: sizes of the vocabularies, special symbols included.
    """

    name: str
    sources: Sentences
    references: Sentences
    source_vocab: int
    target_vocab: int


@dataclass(frozen=True)
class Plan:
    """How the models are made.

    Attributes:
        network: the vanilla NAT; the teacher has its sizes.
        teacher, start, further: training of the teacher, of the vanilla NAT, and of what starts from it.
        objective: of the non-autoregressive models.
        distilled: they learn the teacher's translations (beam 4); else the references.
        warm: the CRF models start from the trained NAT; else from scratch, with the budget of `start`.
        transition_std: standard deviation of the CRF's initial transition factors.
        max_tokens, max_pairs: of a batch.
        teacher_seed: one teacher for all seeds.
    """

    network: NatConfig
    teacher: OptimisationConfig
    start: OptimisationConfig
    further: OptimisationConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    distilled: bool = True
    warm: bool = True
    transition_std: float = 0.1
    max_tokens: int = 4096
    max_pairs: int | None = None
    teacher_seed: int = 0


def teacher_stage(plan: Plan, pairs: Pairs, context: RunContext) -> Path:
    """Folder of the trained autoregressive teacher."""
    network = plan.network.teacher()

    def build(folder: Path) -> None:
        torch.manual_seed(plan.teacher_seed)
        teacher = Teacher(network, pairs.source_vocab, pairs.target_vocab)
        objective = teacher_objective(teacher, label_smoothing=plan.objective.label_smoothing)
        _train(teacher, objective, plan.teacher, pairs.references, plan, pairs, context, folder, plan.teacher_seed)

    config = {"pairs": pairs.name, "network": asdict(network), "smoothing": plan.objective.label_smoothing}
    return context.stage("nat-crf-teacher", config | _chosen(plan, "teacher", "teacher_seed", *_BATCHES), build)


def distilled_stage(plan: Plan, pairs: Pairs, context: RunContext) -> Path:
    """Folder with `targets.npz`, the teacher's translations of all sources."""
    teacher = teacher_stage(plan, pairs, context)

    def build(folder: Path) -> None:
        translate = teacher_translator(load_teacher(teacher), pairs.sources, device=select_device(context.device))
        distil(pairs.sources.lengths.tolist(), translate, folder / "shards").save(folder / "targets.npz")

    return context.stage("nat-crf-distilled", {"teacher": teacher.name, "pairs": pairs.name}, build)


def model_stage(plan: Plan, pairs: Pairs, kind: Kind, context: RunContext) -> Path:
    """Folder of a non-autoregressive model: the vanilla NAT, or what it is trained on to."""
    targets_name = distilled_stage(plan, pairs, context).name if plan.distilled else "references"
    if plan.warm or kind == "nat-start":
        return _continued_stage(plan, pairs, kind, targets_name, context)
    network = replace(plan.network, crf=_CRF.get(kind, "none"), transition_std=plan.transition_std)
    return _start_stage(plan, network, pairs, targets_name, context)


def _start_stage(plan: Plan, network: NatConfig, pairs: Pairs, targets_name: str, context: RunContext) -> Path:
    """Folder of a model trained from scratch."""

    def build(folder: Path) -> None:
        torch.manual_seed(context.seed)
        model = Nat(network, pairs.source_vocab, pairs.target_vocab)
        objective = translator_objective(model, plan.objective)
        targets = _targets(targets_name, pairs, context)
        _train(model, objective, plan.start, targets, plan, pairs, context, folder, context.seed)

    config = {"pairs": pairs.name, "targets": targets_name, "network": asdict(network), "seed": context.seed}
    return context.stage("nat-crf-start", config | _chosen(plan, "start", "objective", *_BATCHES), build)


def _continued_stage(plan: Plan, pairs: Pairs, kind: Kind, targets_name: str, context: RunContext) -> Path:
    """Folder of the vanilla NAT, or of a model that starts from it."""
    start = _start_stage(plan, plan.network, pairs, targets_name, context)
    if kind == "nat-start":
        return start

    def build(folder: Path) -> None:
        torch.manual_seed(context.seed)
        model = load_nat(start)
        if kind in _CRF:
            model = warm_start(model, _CRF[kind], transition_std=plan.transition_std)
        objective = translator_objective(model, plan.objective)
        targets = _targets(targets_name, pairs, context)
        _train(model, objective, plan.further, targets, plan, pairs, context, folder, context.seed)

    config = {"start": start.name, "kind": kind, "seed": context.seed, "pairs": pairs.name}
    names = ("further", "objective", "transition_std", *_BATCHES)
    return context.stage(f"nat-crf-{kind}", config | _chosen(plan, *names), build)


def make_translator(
    plan: Plan,
    pairs: Pairs,
    kind: Kind,
    context: RunContext,
    sources: Sequence[Words],
    *,
    candidates: int = 1,
    beam: int | None = None,
    target_lengths: Sequence[int] | None = None,
) -> BatchTranslator:
    """A model, trained where it is not yet, as a translator of `sources`.

    Args:
        plan, pairs, kind, context: which model.
        sources: word ids.
        candidates: target lengths tried; more than 1 are rescored by the teacher.
        beam: k of the CRF; None for that of training.
        target_lengths: decode at these numbers of words instead.
    """
    device = select_device(context.device)
    if kind == "teacher":
        return teacher_translator(load_teacher(teacher_stage(plan, pairs, context)), sources, device=device)
    scorer = None
    if candidates > 1:
        scorer = teacher_scorer(load_teacher(teacher_stage(plan, pairs, context)).to(device))
    model = load_nat(model_stage(plan, pairs, kind, context))
    return nat_translator(
        model,
        sources,
        device=device,
        candidates=candidates,
        target_lengths=target_lengths,
        beam=beam,
        scorer=scorer,
    )


_BATCHES = ("max_tokens", "max_pairs")


def _targets(name: str, pairs: Pairs, context: RunContext) -> Sentences:
    """The targets to learn, by the name of their stage."""
    if name == "references":
        return pairs.references
    return Sentences.load(context.stages / name / "targets.npz", len(pairs.sources))


def _train(
    model: Nat | Teacher,
    objective: Objective,
    optimisation: OptimisationConfig,
    targets: Sentences,
    plan: Plan,
    pairs: Pairs,
    context: RunContext,
    folder: Path,
    seed: int,
) -> None:
    """Train on (source, target) pairs and save the model."""
    boundaries: Boundaries = model.config.boundaries if isinstance(model, Nat) else "eos"
    limits: dict[str, Any] = {"max_tokens": plan.max_tokens, "max_pairs": plan.max_pairs}
    batches = PairBatches(pairs.sources, targets, boundaries=boundaries, seed=seed, **limits)
    device, title = select_device(context.device), folder.name.rpartition("-")[0]
    fit(
        model, objective, batches, optimisation, folder / "training", seed=seed, device=device, title=title,
        rows=batches.rows,
    )  # fmt: skip
    save_model(model, folder)


def _chosen(plan: Plan, *names: str) -> dict[str, Any]:
    return {name: value for name, value in asdict(plan).items() if name in names}
