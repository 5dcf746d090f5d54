"""Adversarial task augmentation: the ascent, and what it must leave alone."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cdfsl_ata.augmentation import AdversarialTaskAugmenter, AscentDiverged, ExplodingPerturbation
from cdfsl_ata.training import AscentConfig


class TinyLearner(nn.Module):
    """ProtoNet on a small encoder with batch norm and dropout, one support image a class."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 6)
        )

    def features(self, images: Tensor) -> Tensor:
        return self.encoder(images.flatten(0, 1))

    def forward(self, images: Tensor) -> Tensor:
        z = self.features(images).unflatten(0, images.shape[:2])
        scores = -(z[:, 1:].flatten(0, 1)[:, None] - z[:, 0][None]).square().sum(-1)
        return functional.cross_entropy(scores, torch.arange(len(images)).repeat_interleave(images.shape[1] - 1))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 3, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def learner() -> TinyLearner:
    torch.manual_seed(1)
    return TinyLearner()


def plain(loss: object, **settings: object) -> AdversarialTaskAugmenter:
    options = {"steps": 1, "step_size": 0.5, "p_original": 1.0} | settings
    return AdversarialTaskAugmenter(loss, **options)  # pyright: ignore[reportArgumentType]


def test_worked_example_linear_loss() -> None:
    # L = <a, X>: the gradient is a everywhere, so that T steps of beta move the pixels by T beta a
    slope = torch.randn(2, 2, 3, 4, 4)
    start = torch.zeros_like(slope)
    task = plain(lambda x: (slope * x).sum(), steps=3, step_size=0.5)(start, measure=True)
    assert torch.allclose(task.images, 1.5 * slope)
    assert torch.allclose(task.losses, torch.tensor([0.0, 0.5, 1.0]) * slope.square().sum())
    assert task.loss_after is not None
    assert torch.allclose(task.loss_after, 1.5 * slope.square().sum())
    assert torch.allclose(task.rms, 1.5 * slope.square().mean().sqrt())


def test_lagrangian_of_a_linear_loss() -> None:
    # max_X <a, X> - gamma |X - X0|^2 / 2 is at X0 + a / gamma: one step of size 1 / gamma (eq. 3)
    slope, start, gamma = torch.randn(2, 2, 3, 4, 4), torch.randn(2, 2, 3, 4, 4), 4.0
    moved = plain(lambda x: (slope * x).sum(), step_size=1 / gamma)(start).images
    penalised = (slope * moved).sum() - gamma * (moved - start).square().sum() / 2
    assert torch.allclose(penalised, (slope * start).sum() + slope.square().sum() / (2 * gamma), atol=1e-3)


def test_danskin_for_a_quadratic_loss() -> None:
    # phi(theta) = max_x theta x^2 / 2 - gamma (x - x0)^2 / 2; its derivative is the loss's at the fixed maximiser
    theta, gamma, x0 = 1.0, 4.0, 0.7

    def phi(value: float) -> float:
        x = gamma * x0 / (gamma - value)
        return value * x**2 / 2 - gamma * (x - x0) ** 2 / 2

    maximiser = gamma * x0 / (gamma - theta)
    assert (phi(theta + 1e-5) - phi(theta - 1e-5)) / 2e-5 == pytest.approx(maximiser**2 / 2, rel=1e-7)


def test_one_step_is_the_gradient_in_evaluation_mode(learner: TinyLearner, images: Tensor) -> None:
    reference = copy.deepcopy(learner).eval()
    leaf = images.clone().requires_grad_()
    reference(leaf).backward()
    task = plain(learner, step_size=0.3)(images)
    assert leaf.grad is not None
    assert torch.allclose(task.images, images + 0.3 * leaf.grad, atol=1e-7)


def test_leaves_model_and_images_alone(learner: TinyLearner, images: Tensor) -> None:
    learner.train()
    learner.encoder[1].eval()
    for parameter in learner.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, pixels, random = copy.deepcopy(learner.state_dict()), images.clone(), torch.random.get_rng_state()
    task = plain(learner, steps=3)(images, measure=True)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in learner.parameters() if p.grad is not None)
    assert [m.training for m in (learner, learner.encoder[1], learner.encoder[3])] == [True, False, True]
    assert torch.equal(images, pixels)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not task.images.requires_grad
    assert all(parameter.requires_grad for parameter in learner.parameters())


class CountsCalls(TinyLearner):
    """Updates a buffer in evaluation mode too, and can fail."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.fail = False

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.fail:
            raise RuntimeError("no loss today")
        return super().forward(images)


def test_restores_buffers_that_evaluation_mode_changes(images: Tensor) -> None:
    learner = CountsCalls()
    plain(learner.forward, steps=2)(images)
    assert float(learner.calls) == 0
    learner.fail = True
    with pytest.raises(RuntimeError, match="no loss today"):
        plain(learner)(images)
    assert float(learner.calls) == 0
    assert learner.training


def test_a_graph_from_before_the_ascent_stays_valid(learner: TinyLearner, images: Tensor) -> None:
    learner.eval()  # the backward pass of batch normalisation reads its buffers then
    loss = learner(images)
    plain(learner, steps=2)(images)
    loss.backward()
    assert all(parameter.grad is not None for parameter in learner.parameters())


def test_no_steps_and_no_convolution_is_the_episode(learner: TinyLearner, images: Tensor) -> None:
    random = torch.random.get_rng_state()
    task = plain(learner, steps=0)(images)
    assert torch.equal(task.images, images)
    assert float(task.rms) == 0
    assert task.losses.shape == (0,)
    assert task.loss_after is None
    assert torch.equal(torch.random.get_rng_state(), random)


def test_settings_are_those_of_the_config_by_default(learner: TinyLearner) -> None:
    names = ("steps", "step_size", "p_original", "kernel_sizes", "regulariser", "weight", "normalise", "project")
    given, default = AscentConfig().augmenter(learner), AdversarialTaskAugmenter(learner)
    assert [getattr(given, name) for name in names] == [getattr(default, name) for name in names]
    assert (default.steps, default.step_size, default.p_original) == (5, 80.0, 0.5)


def test_small_steps_raise_the_loss(learner: TinyLearner, images: Tensor) -> None:
    task = plain(learner, steps=4, step_size=0.05)(images, measure=True)
    assert task.loss_after is not None
    assert bool((torch.cat([task.losses, task.loss_after[None]]).diff() > 0).all())
    assert set(task.log()) == {"perturbation_rms", "kernel_size", "loss_before", "loss_after"}


@pytest.mark.parametrize("regulariser", ["euclid", "mmd"])
def test_regulariser(learner: TinyLearner, images: Tensor, regulariser: str) -> None:
    settings = {"regulariser": regulariser, "step_size": 0.02}
    bare = plain(learner, steps=3, step_size=0.02)(images).images
    assert torch.equal(plain(learner, steps=3, weight=0.0, **settings)(images).images, bare)
    assert torch.equal(
        plain(learner, weight=7.0, **settings)(images).images, plain(learner, step_size=0.02)(images).images
    )
    learner.eval()
    origin = learner.features(images)
    moves = [
        (learner.features(plain(learner, steps=6, weight=weight, **settings)(images).images) - origin).norm().item()
        for weight in (0.0, 1.0, 4.0)
    ]
    assert moves[0] > moves[1] > moves[2]


def test_the_penalty_is_computed_in_full_precision(learner: TinyLearner, images: Tensor) -> None:
    augmenter = plain(learner, regulariser="euclid", precision="bf16")
    with torch.autocast("cpu", torch.bfloat16):
        origin = learner.eval().features(images)
    assert origin.dtype == torch.bfloat16
    assert augmenter._penalty(images + 0.1, origin).dtype == torch.float32


def test_normalised_steps_and_projection(learner: TinyLearner, images: Tensor) -> None:
    task = plain(learner, step_size=0.03, normalise=True)(images)
    assert float(task.rms) == pytest.approx(0.03, rel=1e-5)
    assert float(plain(learner, steps=5, step_size=50.0, project=0.2)(images).rms) == pytest.approx(0.2, rel=1e-5)
    far = plain(learner, steps=2, step_size=1e-3, project=5.0)(images)
    assert torch.equal(far.images, plain(learner, steps=2, step_size=1e-3)(images).images)
    flat = plain(lambda x: (0 * x).sum(), normalise=True)(images)
    assert torch.equal(flat.images, images)


def test_convolved_start_is_reproducible(learner: TinyLearner, images: Tensor) -> None:
    augmenter = plain(learner, steps=1, p_original=0.0, kernel_sizes=(3,))
    first, second = (augmenter(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.kernel_size == 3
    assert torch.equal(first.images, second.images)
    assert not torch.equal(augmenter(images, torch.Generator().manual_seed(4)).images, first.images)


def test_half_precision_inner_loop_goes_the_same_way(learner: TinyLearner, images: Tensor) -> None:
    full, half = (plain(learner, precision=precision)(images).images - images for precision in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    assert functional.cosine_similarity(full.flatten(), half.flatten(), dim=0) > 0.95


@pytest.mark.slow
def test_a_compiled_learner_moves_the_pixels_alike(learner: TinyLearner, images: Tensor) -> None:
    compiled = torch.compile(learner, backend="eager")
    task = plain(compiled, steps=2, regulariser="euclid")(images)
    torch.testing.assert_close(task.images, plain(learner, steps=2, regulariser="euclid")(images).images)
    assert learner.training
    compiled(task.images).backward()
    assert all(parameter.grad is not None for parameter in learner.parameters())


def test_works_under_no_grad(learner: TinyLearner, images: Tensor) -> None:
    with torch.no_grad():
        assert float(plain(learner)(images).rms) > 0


def test_explosion_is_told(images: Tensor) -> None:
    with pytest.warns(ExplodingPerturbation, match=r"perturbation of RMS 2e\+0?3.*lower step_size"):
        plain(lambda x: 2000 * x.sum(), step_size=1.0)(images)
    with pytest.raises(AscentDiverged, match="overflowed within 3 steps"):
        plain(lambda x: x.pow(4).sum(), steps=3, step_size=1e20)(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain(lambda x: x.sum(), step_size=1.0)(images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps: expected at least 0"),
        ({"step_size": 0.0}, "step_size: expected above 0"),
        ({"p_original": 1.5}, "p_original"),
        ({"weight": -1.0}, "weight"),
        ({"project": 0.0}, "project"),
        ({"precision": "fp16"}, "precision: expected fp32, tf32 or bf16"),
        ({"kernel_sizes": ()}, "kernel_sizes"),
        ({"regulariser": "l1"}, "expected None, euclid or mmd"),
        ({"regulariser": "mmd"}, "features: regulariser 'mmd' needs"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain(lambda x: x.sum(), **settings)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda x: x.detach().sum(), "expected a gradient to the pixels"),
        (lambda x: torch.ones((), requires_grad=True), "expected a gradient to the pixels"),
        (lambda x: x.sum(0), "expected a scalar tensor, got"),
        (lambda x: 1.0, "expected a scalar tensor, got float"),
    ],
)
def test_bad_loss(loss: object, message: str, images: Tensor) -> None:
    with pytest.raises(ValueError, match=message):
        plain(loss)(images)


def test_bad_images() -> None:
    with pytest.raises(ValueError, match="expected finite pixels"):
        plain(lambda x: x.sum())(torch.full((2, 2, 3, 4, 4), float("nan")))
    with pytest.raises(ValueError, match=r"got \[2, 3, 4, 4\]"):
        plain(lambda x: x.sum())(torch.zeros(2, 3, 4, 4))
