"""The laptop experiment on made-up images: every method runs, shares its stages, and is decided by config and seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cdfsl_ata import domains
from cdfsl_ata.domains import PASSPORTS, domain_images, to_size
from cdfsl_ata.encoders import FeatureWiseTransform, SmallResNet
from cdfsl_ata.recipe import RECIPE, LaptopConfig, load_encoder, run_laptop
from sextet.data.glyphs import CHARACTERS
from sextet.recipe import RunContext

QUICK = {
    "episodes": 8, "n_query": 3, "per_class": 10, "n_way": 3,
    "meta": {"n_way": 3, "n_support": 2, "n_query": 2, "episodes_per_epoch": 12},
    "pretraining": {"steps": 10, "batch_size": 16},
}  # fmt: skip
ATA = {"steps": 2, "step_size": 0.02, "normalise": True, "p_original": 0.5, "kernel_sizes": [1, 3]}


def patterns(classes: int, size: int, channels: int, per_class: int) -> dict[str, np.ndarray]:
    """Images around one pattern a class, in the official order of dimensions."""
    rng = np.random.default_rng(classes + size)
    labels = np.arange(classes).repeat(per_class)
    own = rng.integers(0, 200, (classes, size, size, channels))
    images = own[labels] + rng.integers(0, 56, (len(labels), size, size, channels))
    order = rng.permutation(len(labels))
    return {"images": images[order].astype(np.uint8), "labels": labels[order].astype(np.int64)}


@pytest.fixture(autouse=True)
def _small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"fashion-mnist": (10, 28, 1), "mnist": (10, 28, 1), "cifar10": (10, 32, 3)}
    made = {
        name: {f"{split}_{key}": value for split in ("train", "test") for key, value in patterns(*shape, 20).items()}
        for name, shape in shapes.items()
    }
    made |= {"digits": patterns(10, 8, 1, 12), "glyphs": patterns(len(CHARACTERS), 32, 1, 12)}
    monkeypatch.setattr(domains, "load", lambda passport, root: made[passport.name])
    monkeypatch.setattr(domains, "TRAINING", 80)


def run(folder, seed=0, **values):
    context = RunContext(folder / "run", folder / "stages", seed, device="cpu", progress=False)
    return run_laptop(RECIPE.configure({**QUICK, **values}), context)


@pytest.mark.parametrize("head", ["proto", "relation"])
@pytest.mark.parametrize(
    "method", [{}, {"transform": True}, {"ascent": ATA}, {"ascent": {"steps": 0, "p_original": 0.5}}]
)
def test_every_method_gives_scores(tmp_path, head, method):
    found = run(tmp_path, head=head, **method)
    assert len(found["accuracy"].values) == 8
    assert found["accuracy"].mean > (0.45 if head == "proto" else 0.2)
    assert len(found["perturbation_rms"].values) == 6
    moved = method.get("ascent", {}).get("steps", 0) > 0
    assert (found["perturbation_rms"].mean > 0) == moved
    assert ("loss_gain" in found) == moved
    if moved:
        assert found["loss_gain"].mean > 0


def test_loss_against_chance(tmp_path):
    """A learner whose scores are all equal has the loss 1 in these units, for either head."""
    from cdfsl_ata import recipe

    for head, value in (("proto", math.log(3)), ("relation", 2 / 9)):
        (tmp_path / "log.jsonl").write_text("".join(
            f'{{"step": {step}, "loss": {value}, "perturbation_rms": 0.0}}\n' for step in range(4)
        ))  # fmt: skip
        config = RECIPE.configure({**QUICK, "head": head})
        found = recipe.training_metrics(tmp_path, config)["loss_over_chance"].values
        assert found == pytest.approx((1.0, 1.0))


def test_everything_is_decided_by_config_and_seed(tmp_path):
    first = run(tmp_path / "a", ascent=ATA, transform=True)
    assert run(tmp_path / "b", ascent=ATA, transform=True) == first
    assert run(tmp_path / "c", ascent=ATA, transform=True, seed=1) != first


def test_a_learner_is_trained_once_for_all_domains_and_shots(tmp_path):
    for domain in PASSPORTS:
        for shot in (1, 2):
            run(tmp_path, domain=domain, n_shot=shot)
    run(tmp_path, head="relation")
    names = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "stages").iterdir() if path.is_dir())
    assert names == ["ata-encoder", "ata-learner", "ata-learner"]


def test_methods_see_the_same_test_episodes(tmp_path):
    """Two rows whose learners are the same have the same scores, episode by episode."""
    nothing = {"steps": 0, "p_original": 1.0, "step_size": 7.0}
    assert run(tmp_path, ascent=nothing)["accuracy"] == run(tmp_path)["accuracy"]


def test_domains():
    for name in PASSPORTS:
        images, labels = domain_images(name, None)
        assert images.dtype == torch.uint8
        assert images.shape[2:] == (32, 32)
        assert len(images) == len(labels)
        assert len(np.unique(labels)) == (20 if name == "glyphs" else 10)
    assert len(domain_images("training", None)[1]) == 80
    assert len(domain_images("validation", None)[1]) == 120
    few, labels = domain_images("mnist", None, 3)
    assert list(np.bincount(labels)) == [3] * 10
    assert torch.equal(
        few[:3], domain_images("mnist", None)[0][np.flatnonzero(domain_images("mnist", None)[1] == 0)[:3]]
    )


def test_sizes():
    padded = to_size(torch.full((1, 1, 28, 28), 7, dtype=torch.uint8))
    assert padded.sum() == 7 * 28**2
    assert padded[0, 0, 2:30, 2:30].eq(7).all()
    stretched = to_size(torch.full((1, 1, 8, 8), 255, dtype=torch.uint8))
    assert stretched[0, 0, 2:30, 2:30].eq(255).all()
    with pytest.raises(ValueError, match="squares of at most 32"):
        to_size(torch.zeros(1, 1, 28, 30, dtype=torch.uint8))
    with pytest.raises(ValueError, match="got 64 x 64"):
        to_size(torch.zeros(1, 1, 64, 64, dtype=torch.uint8))


def test_pretrained_weights_go_into_an_encoder_with_transformations():
    plain, transformed = SmallResNet(), SmallResNet(flatten=False, last_norm=FeatureWiseTransform)
    load_encoder(transformed, plain.state_dict())
    images = torch.randn(2, 3, 32, 32)
    maps = transformed.eval()(images)
    assert maps.shape == (2, 64, 4, 4)
    torch.testing.assert_close(maps.mean(dim=(2, 3)), plain.eval()(images))
    with pytest.raises(ValueError, match="missing weights"):
        load_encoder(plain, {})


@pytest.mark.parametrize("values", [{"head": "gnn"}, {"domain": "imagenet"}])
def test_configs_that_make_no_sense(values):
    with pytest.raises(ValueError, match="expected one of"):
        LaptopConfig(**values)
    with pytest.raises(ValueError, match="domain: expected one of training"):
        domain_images("imagenet", None)
