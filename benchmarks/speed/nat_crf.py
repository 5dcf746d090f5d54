"""The CRF layer of nat-crf against the usual ways to compute the same, side by side.

    python -m benchmarks.speed.nat_crf --threads 1 --out runs/speed/nat_crf.json

from the root of the checkout (as a module: as a script this file would hide the package of the same name). Each section
is a function that yields results; add one to `SECTIONS`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
import tyro
from torch import Tensor

from nat_crf.candidates import select_candidates, top_indices
from nat_crf.chain import Chain
from nat_crf.crf import LowRankCRF
from nat_crf.recursion import BlockChain
from nat_crf.transitions import Transitions
from nat_crf.viterbi import best_path

from . import nat_crf_peers as peers
from . import timing

BATCH, TIME, BEAM, RANK, STATE_DIM = 64, 32, 64, 32, 256
LOSS_TARGET, RECURSION_TARGET, VITERBI_TARGET, MEMORY_TARGET = 3.0, 4.0, 2.0, 0.5
Call = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Arguments(timing.Arguments):
    """How to measure.

    Attributes:
        device: where; with a GPU take `--clock wall`.
        vocab: sizes of the vocabulary.
        seed: of the inputs.
    """

    device: str = "cpu"
    vocab: tuple[int, ...] = (10_000, 40_000)
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """One line of the table: milliseconds a call, memory in MiB beyond the inputs; None for what was not measured.

    `target` is the least ratio of times, `memory_target` the largest of memory, ours to theirs.
    """

    name: str
    setting: str
    note: str
    difference: float
    ours_ms: float | None = None
    theirs_ms: float | None = None
    ratio: timing.Ratio | None = None
    ours_mib: float | None = None
    theirs_mib: float | None = None
    target: float | None = None
    memory_target: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the targets are met: that of time by the median, saying so where the interval reaches across it."""
        found = []
        if self.target is not None and self.ratio is not None:
            found.append(timing.judge(self.ratio, self.target))
        if self.memory_target is not None and self.ours_mib is not None and self.theirs_mib is not None:
            met = self.ours_mib <= self.memory_target * self.theirs_mib
            found.append(f"memory {'met' if met else 'NOT MET'} (<= {self.memory_target:g}x)")
        return ", ".join(found)


@dataclass(frozen=True)
class Inputs:
    """Random float32 scores of a batch, all of whose tensors want a gradient where one can be had."""

    emissions: Tensor
    targets: Tensor
    mask: Tensor
    states: Tensor
    left: Tensor
    right: Tensor
    dynamic: Tensor

    @classmethod
    def random(cls, vocab: int, arguments: Arguments) -> Inputs:
        generator = torch.Generator().manual_seed(arguments.seed)

        def normal(*shape: int, std: float = 1.0) -> Tensor:
            return (std * torch.randn(*shape, generator=generator)).to(arguments.device).requires_grad_()

        # The second term breaks ties, of which float32 normals have some
        emissions = normal(BATCH, TIME, vocab, std=3.0).detach()
        emissions.add_(normal(BATCH, TIME, vocab, std=0.03).detach())
        targets = torch.randint(0, vocab, (BATCH, TIME), generator=generator)
        lengths = torch.randint(TIME * 3 // 4, TIME + 1, (BATCH, 1), generator=generator)
        mask = torch.arange(TIME) < lengths
        identity = torch.eye(RANK, device=arguments.device)
        return cls(
            emissions.requires_grad_(),
            targets.to(arguments.device),
            mask.to(arguments.device),
            normal(BATCH, TIME, STATE_DIM),
            normal(vocab, RANK, std=0.3),
            normal(vocab, RANK, std=0.3),
            (normal(BATCH, TIME - 1, RANK, RANK, std=0.1).detach() + identity).requires_grad_(),
        )


def setting(vocab: int | None) -> str:
    """The sizes of one comparison."""
    return f"B {BATCH}, T {TIME}, k {BEAM}, r {RANK}" + ("" if vocab is None else f", V {vocab}")


def compare(
    name: str,
    sizes: str,
    ours: Call,
    theirs: Call,
    arguments: Arguments,
    *,
    tolerance: float = 1e-3,
    target: float | None = None,
    memory_target: float | None = None,
) -> Result:
    """Outputs first; times and memory only where they agree."""
    difference = timing.relative_error(ours(), theirs())
    note = f"differ by {difference:.0e}"
    if not difference <= tolerance:
        return Result(name, sizes, f"{note}: not timed", difference)
    times = timing.interleaved(ours, theirs, pairs=arguments.pairs, clock=arguments.clock)
    device = torch.device(arguments.device)
    return Result(
        name,
        sizes,
        note,
        difference,
        1e3 * statistics.median(times.ours),
        1e3 * statistics.median(times.theirs),
        timing.median_ratio(times.ratios),
        timing.peak_memory(ours, device) / 2**20,
        timing.peak_memory(theirs, device) / 2**20,
        target,
        memory_target,
    )


def with_gradients(function: Callable[[], Tensor], inputs: list[Tensor]) -> Call:
    """A function that returns [values, gradients of their sum]."""

    def call() -> list[Tensor]:
        values = function()
        return [values, *torch.autograd.grad(values.sum(), inputs)]

    return call


def crf_loss(arguments: Arguments) -> Iterator[Result]:
    """Log-likelihood forward and backward, to the emissions and all parameters of the transitions."""
    for vocab in arguments.vocab:
        data = Inputs.random(vocab, arguments)
        crf = LowRankCRF(vocab, RANK, beam=BEAM).to(arguments.device)
        crf.E1.weight, crf.E2.weight = torch.nn.Parameter(data.left), torch.nn.Parameter(data.right)
        parameters = [data.emissions, crf.E1.weight, crf.E2.weight]

        def theirs(data: Inputs = data, crf: LowRankCRF = crf) -> Tensor:
            emissions, targets, mask = data.emissions, data.targets, data.mask
            return peers.scattering_log_likelihood(emissions, targets, mask, crf.E1.weight, crf.E2.weight, None, BEAM)

        def ours(data: Inputs = data, crf: LowRankCRF = crf) -> Tensor:
            return crf.log_likelihood(data.emissions, data.targets, data.mask)

        yield compare(
            "CRF loss / +inf scatter, autograd loop",
            setting(vocab),
            with_gradients(ours, parameters),
            with_gradients(theirs, parameters),
            arguments,
            target=LOSS_TARGET,
            memory_target=MEMORY_TARGET,
        )
        yield dynamic_loss(data, vocab, arguments)


def dynamic_loss(data: Inputs, vocab: int, arguments: Arguments) -> Result:
    """The same with dynamic transitions, whose network is the same on both sides and left out of the gradients."""
    crf = LowRankCRF(vocab, RANK, beam=BEAM, state_dim=STATE_DIM).to(arguments.device)
    crf.E1.weight, crf.E2.weight = torch.nn.Parameter(data.left), torch.nn.Parameter(data.right)
    network = crf.f
    assert network is not None
    parameters = [data.emissions, *crf.parameters(), data.states]

    def ours() -> Tensor:
        return crf.log_likelihood(data.emissions, data.targets, data.mask, data.states)

    def theirs() -> Tensor:
        emissions, targets, mask, dynamic = data.emissions, data.targets, data.mask, network(data.states)
        return peers.scattering_log_likelihood(emissions, targets, mask, crf.E1.weight, crf.E2.weight, dynamic, BEAM)

    name = "dynamic CRF loss / +inf scatter, autograd loop"
    calls = with_gradients(ours, parameters), with_gradients(theirs, parameters)
    return compare(name, setting(vocab), *calls, arguments, target=LOSS_TARGET, memory_target=MEMORY_TARGET)


def recursion(arguments: Arguments) -> Iterator[Result]:
    """log Z of given scores, forward and backward."""
    data = Inputs.random(BEAM, arguments)
    with torch.no_grad():
        labels = top_indices(data.emissions, BEAM)
        blocks = peers.transition_blocks(data.left, data.right, labels, None)
    blocks.requires_grad_()
    lengths = data.mask.sum(dim=1)
    inputs = [data.emissions, blocks]
    yield compare(
        "recursion, forward+backward / autograd loop",
        setting(None),
        with_gradients(lambda: BlockChain.apply(data.emissions, blocks, lengths), inputs),
        with_gradients(lambda: peers.autograd_log_partition(data.emissions, blocks, data.mask), inputs),
        arguments,
        target=RECURSION_TARGET,
        memory_target=MEMORY_TARGET,
    )


def viterbi(arguments: Arguments) -> Iterator[Result]:
    """Best tokens and their score, selection of the candidates included; and with log Z on top, as `decode` does."""
    for vocab in arguments.vocab:
        data = Inputs.random(vocab, arguments)
        crf = LowRankCRF(vocab, RANK, beam=BEAM).to(arguments.device)
        crf.E1.weight, crf.E2.weight = torch.nn.Parameter(data.left), torch.nn.Parameter(data.right)
        lengths = data.mask.sum(dim=1)

        @torch.no_grad()
        def ours(data: Inputs = data, lengths: Tensor = lengths) -> list[Tensor]:
            labels, scores, _ = select_candidates(data.emissions, BEAM, mask=data.mask)
            paths = best_path(Chain(scores, Transitions(labels, data.left, data.right), lengths))
            tokens = labels.gather(2, paths.slots.mT)[..., 0] * data.mask
            return [tokens, paths.scores[:, 0]]

        def decode(data: Inputs = data, crf: LowRankCRF = crf) -> list[Tensor]:
            decoded = crf.decode(data.emissions, data.mask)
            return [decoded.tokens, decoded.score]

        @torch.no_grad()
        def theirs(data: Inputs = data) -> list[Tensor]:
            return [*peers.pointer_viterbi(data.emissions, data.mask, data.left, data.right, None, BEAM)]

        name = "Viterbi with selection / top-k, back pointers"
        yield compare(name, setting(vocab), ours, theirs, arguments, target=VITERBI_TARGET)
        yield compare("decode with log Z / the same without log Z", setting(vocab), decode, theirs, arguments)


def fused_projection(arguments: Arguments) -> Iterator[Result]:
    """CRF and label-smoothed token loss from decoder states, against the loss on stored emissions by the usual ways."""
    vocab = min(arguments.vocab)
    data = Inputs.random(vocab, arguments)
    weight = (0.2 * torch.randn(vocab, STATE_DIM, generator=torch.Generator().manual_seed(1))).to(arguments.device)
    weight.requires_grad_()
    crf = LowRankCRF(vocab, RANK, beam=BEAM).to(arguments.device)
    crf.E1.weight, crf.E2.weight = torch.nn.Parameter(data.left), torch.nn.Parameter(data.right)
    parameters = [data.states, weight, crf.E1.weight, crf.E2.weight]

    def ours() -> Tensor:
        loss = crf.fused_loss(data.states, weight, data.targets, data.mask, label_smoothing=0.1)
        return loss.token_loss.sum(dim=1) - loss.log_likelihood

    def theirs() -> Tensor:
        emissions = data.states @ weight.mT
        token = torch.nn.functional.cross_entropy(
            emissions.flatten(0, 1), data.targets.flatten(), reduction="none", label_smoothing=0.1
        )
        first, second = crf.E1.weight, crf.E2.weight
        log_likelihood = peers.scattering_log_likelihood(emissions, data.targets, data.mask, first, second, None, BEAM)
        return (token.view(BATCH, TIME) * data.mask).sum(dim=1) - log_likelihood

    calls = with_gradients(ours, parameters), with_gradients(theirs, parameters)
    name = f"losses from states, d = {STATE_DIM} / stored emissions"
    yield compare(name, setting(vocab), *calls, arguments, memory_target=MEMORY_TARGET)


SECTIONS = (crf_loss, recursion, viterbi, fused_projection)


def line(result: Result) -> str:
    """One line of the table as text."""
    start = f"{result.name:<47} {result.setting:<32}"
    if result.ratio is None:
        return f"{start} {result.note}"
    ratio = f"{result.ratio.median:6.2f}x [{result.ratio.low:.2f}, {result.ratio.high:.2f}]"
    times = f"{result.ours_ms:8.1f} / {result.theirs_ms:8.1f} ms"
    memory = f"{result.ours_mib:6.0f} / {result.theirs_mib:6.0f} MiB"
    return f"{start} {times}  {ratio:<24} {memory}  {result.note}  {result.verdict}".rstrip()


def main(arguments: Arguments) -> None:
    """Measure, print the table, write it."""
    surroundings = timing.begin(threads=arguments.threads, clock=arguments.clock)
    print("float32; ours / theirs: milliseconds a call, median paired ratio with 95% interval, peak memory")
    results = []
    for section in SECTIONS:
        for result in section(arguments):
            results.append(result)
            print(line(result), flush=True)
    rows = [{**asdict(result), "verdict": result.verdict} for result in results]
    timing.write_results(arguments.out, asdict(arguments), surroundings, rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
