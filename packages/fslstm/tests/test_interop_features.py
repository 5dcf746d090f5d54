"""Features that were extracted before: reading them, and evaluating heads on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from fslstm import LSSVM
from fslstm.interop import evaluate_features, load_features
from sextet.data import DIGITS, load
from sextet.episodes import EpisodeSampler


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_feature_files(tmp_path: Path, suffix: str, dtype: str) -> None:
    features, labels = np.arange(12).reshape(4, 3).astype(dtype), np.array([3, 1, 1, 3], dtype="int32")
    path = tmp_path / f"features{suffix}"
    if suffix == ".npz":
        np.savez(path, features=features, labels=labels)
    else:
        safetensors.torch.save_file({"features": torch.tensor(features), "labels": torch.tensor(labels)}, path)
    found, found_labels = load_features(path)
    assert np.array_equal(found.numpy(), features)
    assert found.numpy().dtype == features.dtype
    assert found_labels.tolist() == [3, 1, 1, 3]
    assert found_labels.dtype == torch.int64


def test_evaluation_of_features() -> None:
    """Mean and interval from the accuracies, each episode classified apart; transduction helps at one shot."""
    arrays = load(DIGITS)
    features = torch.from_numpy(np.array(arrays["images"])).flatten(1).float()
    features, labels = (features - features.mean()) / features.std(), torch.from_numpy(np.array(arrays["labels"]))
    found = evaluate_features(features, labels, LSSVM(), n_shot=1, episodes=200)
    sampler = EpisodeSampler(labels.numpy(), 5, 1, 15, seed=0)
    episode = sampler[7]
    logits = LSSVM()(features[episode.query_ids], features[episode.support_ids], torch.arange(5)[None], 5)
    expected = np.mean(logits.argmax(-1).numpy() == episode.query_labels)
    assert float(found.accuracies[7]) == pytest.approx(expected)
    scores = found.accuracies.numpy()
    assert found.mean == pytest.approx(scores.mean())
    assert found.half_width == pytest.approx(1.96 * scores.std(ddof=1) / np.sqrt(200))
    transductive = evaluate_features(features, labels, LSSVM(), n_shot=1, episodes=200, rounds=10)
    assert transductive.mean > found.mean + 0.02


# numpy leaves a damaged archive open
def test_bad_feature_files(tmp_path: Path) -> None:
    features, labels = np.zeros((3, 2), "float32"), np.arange(3)
    cases = {
        "pickled": ({"features": np.array([{}] * 3), "labels": labels}, "cannot be read"),
        "missing": ({"features": features}, "expected arrays `features` and `labels`, got"),
        "short": ({"features": features, "labels": labels[:2]}, "one integer for each of 3 rows"),
        "real": ({"features": features, "labels": features[:, 0]}, "labels: expected one integer"),
        "infinite": ({"features": features + np.inf, "labels": labels}, "features: expected finite"),
        "flat": ({"features": features[:, 0], "labels": labels}, r"\[n, d\]"),
    }
    for name, (arrays, message) in cases.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            load_features(tmp_path / f"{name}.npz")
    for name in ("broken.npz", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 and nothing after it")
        with pytest.raises(ValueError, match="broken"):
            load_features(tmp_path / name)
    with pytest.raises(ValueError, match="absent"):
        load_features(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match=r"path: expected a file ending in \.npz or \.safetensors"):
        load_features("features.pt")
    with pytest.raises(ValueError, match="episodes: expected at least 2"):
        evaluate_features(torch.zeros(4, 2), torch.arange(4) // 2, LSSVM(), n_way=2, n_query=1, episodes=1)
