"""Other libraries' interfaces: learn2learn, easy-few-shot-learning, timm, torchvision."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from fslstm_testing.brute_force import episodes, pseudo_support_explicit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fslstm import LSSVM, Conv4, CrammerSingerSVM, InverseAttention, Prototype, Ridge, ScaledHead
from fslstm.interop import (
    HeadLearner,
    SupportSetClassifier,
    embedding,
    episode_batch,
    timm_embedding,
)
from fslstm.objective import smoothed_cross_entropy
from fslstm.training import Learner
from sextet.data import DIGITS, load
from sextet.episodes import EpisodeSampler, Taskset

HEADS = {
    "ls_svm": LSSVM(),
    "ridge": Ridge(),
    "svm": CrammerSingerSVM(),
    "prototype": Prototype(),
    "rbf": LSSVM(kernel="rbf"),
}
each_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
# learn2learn imports gym, which warns, and asks for deprecated interfaces
learn2learn_warns = pytest.mark.filterwarnings("ignore")


def digits() -> tuple[Tensor, Tensor]:
    """Real digits, standardised, `[1797, 64]`, and labels."""
    arrays = load(DIGITS)
    images = torch.from_numpy(np.array(arrays["images"])).flatten(1).float()
    return (images - images.mean()) / images.std(), torch.from_numpy(np.array(arrays["labels"]))


class NaivePrototypes(nn.Module):
    """Prototypical networks as easy-few-shot-learning states them, but for its square root of the distance."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def process_support_set(self, images: Tensor, labels: Tensor) -> None:
        features = self.backbone(images)
        self.prototypes = torch.stack([features[labels == label].mean(0) for label in range(int(labels.max()) + 1)])

    def forward(self, images: Tensor) -> Tensor:
        return -(torch.cdist(self.backbone(images), self.prototypes) ** 2)


def test_worked_example_of_a_task() -> None:
    """Labels 7 and 3, not grouped, one support row each: 3 becomes class 0."""
    data = torch.tensor([[10.0], [20.0], [11.0], [21.0], [22.0]])
    batch = episode_batch([(data, torch.tensor([7, 3, 7, 3, 3]))], n_shot=1)
    assert (batch.support[0, :, 0].tolist(), batch.support_labels[0].tolist()) == ([20.0, 10.0], [0, 1])
    assert (batch.query[0, :, 0].tolist(), batch.query_labels[0].tolist()) == ([21.0, 22.0, 11.0], [0, 0, 1])
    assert batch.n_way == 2


def test_task_of_our_own_sampler() -> None:
    """Unpacked, the learn2learn form of our episodes gives the episodes back."""
    features, labels = digits()
    sampler = EpisodeSampler(labels.numpy(), 4, 2, 3, seed=5)
    batch = episode_batch(Taskset(sampler, lambda ids: features[ids], num_tasks=6), n_shot=2)
    expected = sampler.batch(0, 6)
    assert torch.equal(batch.support, features[torch.from_numpy(expected.support_ids)])
    assert torch.equal(batch.query, features[torch.from_numpy(expected.query_ids)])
    assert np.array_equal(batch.query_labels, expected.query_labels)


@settings(max_examples=25, deadline=None)
@given(way=st.integers(2, 5), shot=st.integers(1, 3), n_query=st.integers(1, 4), seed=st.integers(0, 999))
def test_split_of_shuffled_tasks(way: int, shot: int, n_query: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    names = torch.randperm(50, generator=generator)[:way] - 10
    labels = names.repeat(shot + n_query)[torch.randperm(way * (shot + n_query), generator=generator)]
    data = torch.arange(len(labels))
    batch = episode_batch([(data, labels)], shot)
    assert torch.equal(names.sort().values[batch.support_labels[0]], labels[batch.support[0]])
    assert torch.equal(names.sort().values[batch.query_labels[0]], labels[batch.query[0]])
    assert sorted([*batch.support[0].tolist(), *batch.query[0].tolist()]) == data.tolist()
    for label in range(way):
        chosen = batch.support[0][batch.support_labels[0] == label]
        assert len(chosen) == shot
        assert chosen.max() < batch.query[0][batch.query_labels[0] == label].min()


def learn2learn_tasks(data: Tensor, labels: Tensor, way: int, rows: int, *, grouped: bool = True) -> Iterator:
    l2l = pytest.importorskip("learn2learn")
    transforms = l2l.data.transforms
    dataset = l2l.data.MetaDataset(torch.utils.data.TensorDataset(data, labels))
    steps = [transforms.NWays(dataset, way), transforms.KShots(dataset, rows), transforms.LoadData(dataset)]
    if grouped:
        steps += [transforms.RemapLabels(dataset), transforms.ConsecutiveLabels(dataset)]
    tasks = l2l.data.TaskDataset(dataset, steps, num_tasks=-1)
    while True:
        yield tasks.sample()


@learn2learn_warns
def test_splits_as_learn2learn_does() -> None:
    features, labels = digits()
    tasks = learn2learn_tasks(features, labels, way=4, rows=5)
    partition_task = pytest.importorskip("learn2learn").data.partition_task
    for _ in range(3):
        data, names = next(tasks)
        (support, support_labels), (query, query_labels) = partition_task(data, names, shots=2)
        batch = episode_batch([(data, names)], n_shot=2)
        assert torch.equal(batch.support[0], support)
        assert torch.equal(batch.support_labels[0], support_labels)
        assert torch.equal(batch.query[0], query)
        assert torch.equal(batch.query_labels[0], query_labels)


@learn2learn_warns
def test_learner_on_learn2learn_tasks_with_any_labels() -> None:
    features, labels = digits()
    tasks = learn2learn_tasks(features, labels, way=5, rows=8, grouped=False)
    batch = episode_batch([next(tasks) for _ in range(20)], n_shot=5)
    learner = Learner(nn.Identity(), LSSVM())
    predicted = learner(batch.query, batch.support, batch.support_labels, batch.n_way).argmax(-1)
    assert float((predicted == batch.query_labels).double().mean()) > 0.7


@learn2learn_warns
def test_meta_training_in_learn2learns_loop() -> None:
    """Digits beside as many columns of noise: an embedding learns on tasks of six digits to ignore the noise, so that
    loss goes down and accuracy up on tasks of the four digits never seen."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    features, labels = digits()
    features = torch.cat([features, 2 * torch.randn(features.shape)], dim=1)
    base = labels < 6
    model = HeadLearner(nn.Linear(128, 32), ScaledHead(LSSVM()))
    train = learn2learn_tasks(features[base], labels[base], way=4, rows=9)
    held_out = learn2learn_tasks(features[~base], labels[~base] - 6, way=4, rows=9)
    tests = [next(held_out) for _ in range(60)]

    def loss_and_accuracy(task: tuple[Tensor, Tensor]) -> Tensor:
        batch = episode_batch([task], n_shot=3)
        learner = model.clone()
        learner.adapt(batch.support[0], batch.support_labels[0])
        logits = learner(batch.query[0])
        correct = logits.argmax(-1) == batch.query_labels[0]
        return torch.stack([smoothed_cross_entropy(logits, batch.query_labels[0]), correct.float().mean()])

    @torch.no_grad()
    def on_held_out() -> list[float]:
        return torch.stack([loss_and_accuracy(task) for task in tests]).mean(0).tolist()

    loss_before, accuracy_before = on_held_out()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack([loss_and_accuracy(next(train))[0] for _ in range(4)]).mean().backward()
        optimizer.step()
    loss, accuracy = on_held_out()
    assert loss < 0.85 * loss_before
    assert accuracy > accuracy_before + 0.1


@learn2learn_warns
def test_gradient_through_learn2learns_clone() -> None:
    """`clone_module` copies parameters within the graph: gradients reach the original, as with our own clone."""
    l2l = pytest.importorskip("learn2learn")
    query, support, labels = (part[0] for part in episodes(1, 3, 2, 4, 5))
    model = HeadLearner(nn.Linear(5, 4).double(), ScaledHead(LSSVM()))
    gradients = []
    for learner in (model.clone(), l2l.clone_module(model)):
        learner.adapt(support, labels)
        model.zero_grad()
        learner(query).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.abs().max() > 0


@learn2learn_warns
def test_svm_is_learn2learns() -> None:
    """Their Crammer-Singer head solves the same problem with qpth."""
    l2l = pytest.importorskip("learn2learn")
    query, support, labels = episodes(1, 3, 4, 5, 6)
    theirs = l2l.nn.SVClassifier(support[0].float(), labels[0], ways=3, max_iters=30)
    expected = theirs(query[0].float())
    learner = HeadLearner(None, CrammerSingerSVM(max_iter=30))
    learner.adapt(support[0].float(), labels[0])
    torch.testing.assert_close(learner(query[0].float()), expected, rtol=1e-3, atol=1e-4)


@each_head
def test_classifier_is_the_head_on_features(head: nn.Module) -> None:
    query, support, labels = episodes(1, 4, 3, 5, 6, dtype=torch.float32)
    backbone = nn.Linear(6, 3)
    model = SupportSetClassifier(backbone, head)
    model.process_support_set(support[0], labels[0])
    expected = head(backbone(query), backbone(support), labels, 4)[0]
    torch.testing.assert_close(model(query[0]), expected)
    assert not model.is_transductive()


def test_prototypes_as_easy_few_shot_learning() -> None:
    query, support, labels = (part[0] for part in episodes(1, 4, 3, 5, 6, dtype=torch.float32))
    backbone = nn.Linear(6, 3)
    ours, theirs = SupportSetClassifier(backbone, Prototype(normalize=False)), NaivePrototypes(backbone)
    for model in (ours, theirs):
        model.process_support_set(support, labels)
    torch.testing.assert_close(ours(query), theirs(query), rtol=1e-4, atol=1e-4)


def test_pseudo_support_in_evaluation_mode() -> None:
    query, support, labels = episodes(1, 3, 2, 6, 5)
    model = SupportSetClassifier(None, LSSVM(), rounds=3)
    model.process_support_set(support[0], labels[0])
    inductive = LSSVM()(query, support, labels, 3)[0]
    torch.testing.assert_close(model.train()(query[0]), inductive)
    expected, _, _ = pseudo_support_explicit(LSSVM(), query, support, labels, 3, rounds=3)
    torch.testing.assert_close(model.eval()(query[0]), expected[0])
    assert not torch.allclose(expected[0], inductive)
    assert model.is_transductive()


def test_inverse_attention_sees_the_queries() -> None:
    query, support, labels = episodes(1, 3, 2, 6, 8, dtype=torch.float32)
    attention = InverseAttention(8, 2).eval()
    model = SupportSetClassifier(None, LSSVM(), attention=attention).eval()
    model.process_support_set(support[0], labels[0])
    expected = LSSVM()(query, attention(query, support, labels, 3), labels, 3)[0]
    torch.testing.assert_close(model(query[0]), expected)
    assert model.is_transductive()


@each_head
def test_gradcheck_through_adapt(head: nn.Module) -> None:
    query, support, labels = episodes(1, 3, 2, 2, 4)
    model = HeadLearner(None, head)

    def logits(query: Tensor, support: Tensor) -> Tensor:
        learner = model.clone()
        learner.adapt(support, labels[0])
        return learner(query)

    inputs = (query[0].requires_grad_(), support[0].requires_grad_())
    assert torch.autograd.gradcheck(logits, inputs, rtol=1e-3, atol=1e-5)


def test_clone_keeps_parameters_and_forgets_the_support_set() -> None:
    query, support, labels = (part[0] for part in episodes(1, 3, 2, 2, 4, dtype=torch.float32))
    model = HeadLearner(nn.Linear(4, 4), LSSVM())
    model.adapt(support, labels)
    before = model(query)
    clone = model.clone()
    assert all(ours is theirs for ours, theirs in zip(clone.parameters(), model.parameters(), strict=True))
    with pytest.raises(ValueError, match="support set"):
        clone(query)
    clone.adapt(support.flip(0), labels)
    assert torch.equal(model(query), before)
    assert not torch.allclose(clone(query), before)


@pytest.mark.parametrize(
    ("name", "dim"),
    [("resnet18", 512), ("mobilenet_v3_small", 1024), ("squeezenet1_1", 512), ("vit_b_16", 768), ("swin_t", 768),
     ("convnext_tiny", 768), ("densenet121", 1024)],
)  # fmt: skip
def test_torchvision_models(name: str, dim: int) -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = models.get_model(name, weights=None).eval()
        features = embedding(model)(torch.zeros(2, 3, 224, 224))
        assert features.shape == (2, dim)
        assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)


def test_last_layer_of_an_embedding_gives_the_models_logits() -> None:
    models = pytest.importorskip("torchvision.models")
    model = models.resnet18(weights=None, num_classes=7).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.fc(embedding(model)(images)), model(images))


def test_timm_models() -> None:
    timm = pytest.importorskip("timm")
    images = torch.randn(2, 3, 32, 32)
    model = timm.create_model("resnet10t", num_classes=7).eval()
    with torch.no_grad():
        features = embedding(model)(images)
        torch.testing.assert_close(model.get_classifier()(features), model(images))
    torch.manual_seed(0)
    grey = timm_embedding("resnet10t", in_chans=1).eval()
    assert grey(images[:, :1]).shape == features.shape
    with pytest.raises(ValueError, match=r"name: expected a timm model, got 'resnet10'; did you mean .*resnet10t"):
        timm_embedding("resnet10")


def test_any_backbone_with_any_head() -> None:
    models = pytest.importorskip("torchvision.models")
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    for backbone in (embedding(models.resnet18(weights=None)), Conv4(widths=(4, 4, 8, 8), image_size=32)):
        for head in HEADS.values():
            model = SupportSetClassifier(backbone, head).eval()
            model.process_support_set(images, labels)
            assert model(images[:2]).shape == (2, 3)


def test_timm_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r'timm is not installed; try: pip install "fslstm\[timm\]"'):
        timm_embedding("resnet10t")


BAD_TASKS = {
    "no tasks": ([], 1, "tasks: expected at least one"),
    "no shot": ([(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))], 0, "n_shot: expected at least 1"),
    "no query": ([(torch.zeros(5, 2), torch.tensor([4, 4, 4, 9, 9]))], 2, "got 2 of class 9"),
    "one class": ([(torch.zeros(3, 2), torch.zeros(3).long())], 1, "at least 2 classes"),
    "lengths": ([(torch.zeros(3, 2), torch.tensor([0, 1]))], 1, "labels: expected 3 integers"),
    "sizes": (
        [(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])), (torch.zeros(6, 2), torch.tensor([0, 0, 1, 1, 2, 2]))],
        1,
        r"tasks: expected the same way.*\(2, 2\), \(3, 3\)",
    ),
}


@pytest.mark.parametrize("case", BAD_TASKS.values(), ids=BAD_TASKS.keys())
def test_bad_tasks(case: tuple[list, int, str]) -> None:
    tasks, shot, message = case
    with pytest.raises(ValueError, match=message):
        episode_batch(tasks, shot)


def test_bad_support_sets_and_models() -> None:
    model = SupportSetClassifier(None, LSSVM())
    with pytest.raises(ValueError, match="support set: expected one before queries"):
        model(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="got none of class 1"):
        model.process_support_set(torch.zeros(2, 3), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="support_labels"):
        model.process_support_set(torch.zeros(2, 3), torch.zeros(0).long())
    with pytest.raises(ValueError, match=r"expected features \[rows, dim\], got \[2, 3, 4, 4\]"):
        model.process_support_set(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="rounds: expected 0 or more"):
        SupportSetClassifier(None, LSSVM(), rounds=-1)
    with pytest.raises(ValueError, match="found neither in Sequential"):
        embedding(nn.Sequential(nn.Flatten()))
