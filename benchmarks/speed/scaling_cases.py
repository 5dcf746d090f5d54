"""What `scaling` measures: functions of the packages against one size at a time, and what theory expects."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn

from bi_adapter import (
    AdapterBank,
    BiAdapterConfig,
    add_adapter,
    delete_adapter,
    fake_quantize,
    from_pretrained,
    save_pretrained,
)
from cdfsl_ata import AdversarialTaskAugmenter, ProtoNet
from cdfsl_ata.encoders import SmallResNet
from fslstm import ls_svm
from infocl import lower_bound
from infocl.losses import nt_xent
from lmim import LocalMim, hog_targets
from lmim.config import VIT_SMALL
from nat_crf import LowRankCRF
from sextet.episodes import EpisodeSampler

from . import timing
from .scaling import Case

WAY = 5


def cases() -> Iterator[Case]:
    """All of them, package by package."""
    for section in (machine, fslstm, nat_crf, bi_adapter, infocl, cdfsl_ata, lmim, episodes):
        yield from section()


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, the same ones at each call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_gradients(function: Callable[[], Tensor], leaves: list[Tensor]) -> timing.Run:
    """Forward and backward; leaves are made to want gradients."""
    for leaf in leaves:
        leaf.requires_grad_()
    return lambda: torch.autograd.grad(function().sum(), leaves)


def machine() -> Iterator[Case]:
    """Single operations at sizes of the cases below: what they miss their power by is not the packages' doing."""
    yield Case(
        "torch alone, exp of [N, N]", "N", (512, 1024, 2048, 4096), lambda n: normal(n, n).exp,
        "one pass over N^2 numbers", (2, 2),
    )  # fmt: skip
    yield Case(
        "torch alone, X X^T of [40, d], forward and backward", "d", (32768, 65536, 131072, 262144, 524288),
        lambda dim: gram(normal(40, dim)), "40^2 d", (1, 1),
    )  # fmt: skip
    yield Case(
        "torch alone, X^T X of [n, 64], forward and backward", "n", (8192, 16384, 32768, 65536, 131072),
        lambda n: gram(normal(n, 64).T), "64^2 n", (1, 1),
    )  # fmt: skip
    yield Case(
        "torch alone, the 4 largest of [128, V] with gradients", "V", (64_000, 128_000, 256_000, 512_000),
        lambda vocab: largest(normal(128, vocab)), "one pass over V numbers a row", (1, 1),
    )  # fmt: skip


def gram(rows: Tensor) -> timing.Run:
    """Products of all rows [n, dim], and their gradient."""
    return with_gradients(lambda: rows @ rows.T, [rows])


def largest(rows: Tensor) -> timing.Run:
    """The four largest of each row, and their gradient."""
    return with_gradients(lambda: rows.topk(4, dim=1).values, [rows])


def svm(n: int = 40, dim: int = 512, tasks: int = 1, *, gradients: bool) -> timing.Run:
    """LS-SVM of 15 queries on n support rows of width `dim`, for several tasks at once."""
    query, support = normal(tasks, 15, dim), normal(tasks, n, dim, seed=1)
    labels = (torch.arange(n) % WAY).expand(tasks, n)
    call = partial(ls_svm, query, support, labels, WAY)
    return with_gradients(call, [query, support]) if gradients else call


def fslstm() -> Iterator[Case]:
    """The closed form and its adjoint."""
    for gradients in (False, True):
        name = f"fslstm.ls_svm, {'forward and backward' if gradients else 'forward'}"
        make = partial(svm, gradients=gradients)
        yield Case(
            name, "n", (192, 384, 768, 1536), lambda n, make=make: make(n, 1536),
            "d = 1536 >= n: n^2 d of the Gram matrix, n^3 of the factor", (2, 3),
        )  # fmt: skip
        yield Case(
            name, "n > d", (8192, 16384, 32768, 65536, 131072), lambda n, make=make: make(n, 64),
            "d = 64: the primal form, n d^2", (1, 1),
        )  # fmt: skip
        yield Case(
            name, "d", (32768, 65536, 131072, 262144, 524288), lambda dim, make=make: make(40, dim),
            "n = 40: n^2 d", (1, 1), (1, 1) if gradients else None,
        )  # fmt: skip
        yield Case(
            name, "tasks", (64, 128, 256, 512, 1024), lambda tasks, make=make: make(40, 512, tasks),
            "n = 40, d = 512: tasks share nothing", (1, 1),
        )  # fmt: skip


def crf_inputs(time: int, vocab: int, batch: int) -> tuple[Tensor, Tensor]:
    """Emissions [batch, time, vocab] and targets [batch, time]."""
    generator = torch.Generator().manual_seed(2)
    return normal(batch, time, vocab), torch.randint(vocab, (batch, time), generator=generator)


def crf_loss(time: int = 16, beam: int = 32, vocab: int = 1000, batch: int = 4) -> timing.Run:
    """Training: log-likelihood and its gradients to emissions and transitions."""
    emissions, targets = crf_inputs(time, vocab, batch)
    crf = LowRankCRF(vocab, beam=beam)
    return with_gradients(lambda: crf.log_likelihood(emissions, targets), [emissions, crf.E1.weight, crf.E2.weight])


def crf_decode(time: int = 16, beam: int = 32, vocab: int = 1000, batch: int = 4) -> timing.Run:
    """Viterbi, log Z included."""
    emissions, _ = crf_inputs(time, vocab, batch)
    return partial(LowRankCRF(vocab, beam=beam).decode, emissions)


def exact_partition(vocab: int) -> timing.Run:
    """log Z over the whole vocabulary."""
    emissions, _ = crf_inputs(4, vocab, 1)
    return partial(torch.no_grad()(LowRankCRF(vocab, beam=vocab).log_partition), emissions)


def nat_crf() -> Iterator[Case]:
    """The CRF with candidate lists, and without."""
    for name, make in (("log_likelihood with gradients", crf_loss), ("decode", crf_decode)):
        name, training = f"nat_crf.LowRankCRF.{name}", make is crf_loss
        one = (1.0, 1.0) if training else None
        yield Case(
            name, "T", (128, 256, 512, 1024), lambda time, make=make: make(time=time),
            "k = 32, V = 1000: one step a position", (1, 1), one,
        )  # fmt: skip
        yield Case(
            name, "k", (96, 192, 384, 768), lambda beam, make=make: make(beam=beam),
            "V = 1000: k^2 of the recursion, k and less of the lists", (1, 2),
        )  # fmt: skip
        yield Case(
            name, "V", (64_000, 128_000, 256_000, 512_000), lambda vocab, make=make: make(2, 4, vocab, 64),
            "T = 2, k = 4, batch 64: the choice of candidates", (1, 1), one,
        )  # fmt: skip
        yield Case(
            name, "batch", (128, 256, 512, 1024), lambda batch, make=make: make(8, batch=batch),
            "T = 8, k = 32, V = 1000: rows share nothing", (1, 1), one,
        )  # fmt: skip
    name = "nat_crf.LowRankCRF.log_partition, beam = V"
    yield Case(name, "V", (512, 1024, 2048, 4096), exact_partition, "the exact forward algorithm", (2, 2), (2, 2))


def small_vit() -> nn.Module:
    """A backbone whose own time does not hide that of adapters."""
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=4, num_classes=0).eval()


def crowded(count: int) -> nn.Module:
    """A backbone with `count` adapters attached."""
    model = small_vit()
    for number in range(count):
        add_adapter(model, f"task-{number}", BiAdapterConfig(dim=8))
    return model


def mixed_batch(count: int) -> timing.Run:
    """Eight images of eight tasks, `count` adapters resident."""
    model = small_vit()
    bank = AdapterBank(model, BiAdapterConfig(dim=8))
    add_adapter(model, "source", BiAdapterConfig(dim=8))
    for number in range(count):
        bank.put(f"task-{number}", "source")
    delete_adapter(model, "source")
    return partial(bank, normal(8, 3, 32, 32), [f"task-{number * (count // 8)}" for number in range(8)])


def saving(count: int, folder: Path) -> timing.Run:
    """The first of `count` adapters, to a folder."""
    return partial(save_pretrained, crowded(count), folder / f"saved-{count}", name="task-0")


def loading(count: int, folder: Path) -> timing.Run:
    """From a folder, beside `count` other adapters, and away again."""
    model, source = crowded(count), folder / f"loaded-{count}"
    save_pretrained(model, source, name="task-0")

    def call() -> None:
        from_pretrained(model, source, name="loaded")
        delete_adapter(model, "loaded")

    return call


def quantising(rows: int, bits: int) -> timing.Run:
    """Effective weights [rows, 256], forward and backward."""
    weight = normal(rows, 256)
    return with_gradients(lambda: fake_quantize(weight, bits), [weight])


def bi_adapter() -> Iterator[Case]:
    """Many adapters, and quantisation in the loop."""
    counts = (8, 16, 32, 64, 128)
    yield Case(
        "bi_adapter.AdapterBank, 8 images", "resident", counts, mixed_batch,
        "a batch reads the adapters that it names", (0, 0),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        for what, make in (("save_pretrained", saving), ("from_pretrained and delete_adapter", loading)):
            yield Case(
                f"bi_adapter.{what}", "resident", counts, partial(make, folder=Path(name)),
                "one adapter's matrices", (0, 0),
            )  # fmt: skip
    yield Case(
        "bi_adapter.fake_quantize with gradients", "rows", (256, 512, 1024, 2048, 4096),
        partial(quantising, bits=2), "256 columns, 2 bits: value by value", (1, 1), (1, 1),
    )  # fmt: skip
    yield Case(
        "bi_adapter.fake_quantize with gradients", "bits", (2, 3, 4, 6, 8), partial(quantising, 512),
        "512 x 256: b comparisons of a binary search, all else constant", (0, 1), (0, 0),
    )  # fmt: skip


def contrast(function: Callable[[Tensor, Tensor], Tensor], rows: int, dim: int) -> timing.Run:
    """A loss of two batches [rows, dim], forward and backward."""
    one, other = normal(rows, dim), normal(rows, dim, seed=1)
    return with_gradients(lambda: function(one, other), [one, other])


def infocl() -> Iterator[Case]:
    """Losses of all pairs."""
    for function, sizes, rows in ((lower_bound, (512, 1024, 2048, 4096), 256), (nt_xent, (256, 512, 1024, 2048), 128)):
        name = f"infocl.{function.__name__} with gradients"
        yield Case(
            name, "N", sizes, partial(contrast, function, dim=16), "d = 16: all pairs", (2, 2), (2, 2)
        )  # fmt: skip
        yield Case(
            name, "d", (512, 1024, 2048, 4096, 8192), partial(contrast, function, rows),
            f"N = {rows}: N^2 d of products, N^2 of exponentials; memory N d + N^2", (0, 1), (0, 1),
        )  # fmt: skip


def ata_step(steps: int = 5, queries: int = 4) -> timing.Run:
    """A training step on the harder episode: `steps` of ascent, then the plain step."""
    torch.manual_seed(0)
    learner = ProtoNet(SmallResNet(), 1).train()
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.0)
    augment = AdversarialTaskAugmenter(learner, steps, 1.0, 1.0, warn_rms=1e9)
    images = normal(WAY, 1 + queries, 3, 32, 32)

    def call() -> None:
        loss = learner(augment(images).images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return call


def cdfsl_ata() -> Iterator[Case]:
    """Adversarial task augmentation."""
    yield Case(
        "cdfsl_ata, step with ATA beyond the plain step", "T", (1, 2, 4, 8), lambda steps: ata_step(steps),
        "one gradient to the pixels a step", (1, 1), offset=0,
    )  # fmt: skip
    # 1 + queries images a class are a geometric ladder
    yield Case(
        "cdfsl_ata, step with ATA, T = 2", "images", (16, 32, 64, 128), lambda count: ata_step(2, count - 1),
        "a class, its one support image included: the network sees each once", (1, 1), (1, 1),
    )  # fmt: skip


def hog(images: int, side: int) -> timing.Run:
    """HOG targets at four cell sizes."""
    return partial(hog_targets, normal(images, 3, side, side), (4, 8, 16, 32), 9)


def masked_vit(kept: int, *, encoder: bool) -> timing.Run:
    """Forward and backward with `kept` of 256 patches visible."""
    torch.manual_seed(0)
    model = LocalMim.of(replace(VIT_SMALL, dim=192, heads=(3,), image=256))
    images, noise, ratio = normal(4, 3, 256, 256), torch.rand(4, 256), 1 - kept / 256

    def call() -> None:
        model.zero_grad()
        if encoder:
            latents, _ = model.encode_visible(images, ratio, noise)
            sum(latent.sum() for latent in latents).backward()  # pyright: ignore[reportAttributeAccessIssue]
        else:
            model.losses(images, ratio, noise).sum().backward()

    return call


def lmim() -> Iterator[Case]:
    """Targets, and what hiding patches saves."""
    yield Case(
        "lmim.hog_targets", "images", (4, 8, 16, 32), partial(hog, side=128), "128 x 128 pixels each", (1, 1)
    )  # fmt: skip
    yield Case(
        "lmim.hog_targets", "side", (128, 256, 512, 1024), partial(hog, 1), "one image: pixel by pixel", (2, 2)
    )  # fmt: skip
    kept = (64, 90, 128, 181, 256)
    yield Case(
        "lmim.LocalMim.encode_visible with gradients", "kept", kept, partial(masked_vit, encoder=True),
        "of 256 patches: layers a token, attention a pair", (1, 2),
    )  # fmt: skip
    # With nothing hidden there would be no loss
    yield Case(
        "lmim.LocalMim.losses with gradients", "kept", (16, 32, 64, 128), partial(masked_vit, encoder=False),
        "of 256 patches: as the encoder, but targets and decoders see all", (0, 1),
    )  # fmt: skip


def sampler(rows: int) -> EpisodeSampler:
    """5-way 1-shot episodes of a dataset with 20 classes."""
    return EpisodeSampler(np.arange(rows) % 20, WAY, 1, 15)


def episodes() -> Iterator[Case]:
    """Drawing."""
    drawn = sampler(10_000)
    yield Case(
        "sextet.episodes, batch", "episodes", (16, 32, 64, 128, 256), lambda count: partial(drawn.batch, 0, count),
        "each is drawn on its own", (1, 1),
    )  # fmt: skip
    sizes = (10_000, 40_000, 160_000, 640_000)
    yield Case(
        "sextet.episodes, batch of 16", "rows", sizes, lambda rows: partial(sampler(rows).batch, 0, 16),
        "a draw touches the rows that it takes", (0, 0),
    )  # fmt: skip
    yield Case(
        "sextet.episodes, EpisodeSampler", "rows", sizes, lambda rows: partial(sampler, rows),
        "20 classes: sorted once, looked through once a class", (1, 1),
    )  # fmt: skip
