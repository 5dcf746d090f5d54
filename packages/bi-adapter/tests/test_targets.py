"""The laptop's two target tasks (§10)."""

from __future__ import annotations

import numpy as np
import pytest

from bi_adapter.targets import TURNS, digits_target, rotation_target


@pytest.fixture
def arrays():
    """A made-up set in MNIST's arrays; two corner pixels of image i are i // 256 and i % 256."""
    rng = np.random.default_rng(0)
    made = {}
    for part, count in (("train", 1200), ("test", 90)):
        images = rng.integers(0, 256, (count, 28, 28, 1)).astype(np.uint8)
        images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(count) // 256, np.arange(count) % 256
        made |= {f"{part}_images": images, f"{part}_labels": rng.integers(0, 10, count)}
    return made


def numbers(pixels):
    """Which images these are."""
    return pixels[:, 0, 0, 0].astype(int) * 256 + pixels[:, 0, 1, 0]


def test_digits_are_a_thousand_training_images_and_some_test_images(arrays):
    target = digits_target(arrays, 40)
    assert (len(target.pixels), target.train, target.val, target.n_classes) == (1040, 800, 200, 10)
    train, test = numbers(target.pixels[:1000].numpy()), numbers(target.pixels[1000:].numpy())
    assert len(set(train.tolist())) == 1000
    assert len(set(test.tolist())) == 40
    for rows, part, labels in (
        (train, "train", target.labels[:1000]),
        (test, "test", target.labels[1000:]),
    ):
        assert np.array_equal(arrays[f"{part}_labels"][rows], labels.numpy())
    assert np.array_equal(target.pixels[:1000].numpy(), arrays["train_images"][train])


def test_the_same_images_whatever_the_number_of_test_images(arrays):
    few, many = digits_target(arrays, 10), digits_target(arrays, 60)
    assert np.array_equal(few.pixels.numpy(), many.pixels[:1010].numpy())


def test_the_label_is_the_turn(arrays):
    unseen = np.arange(1199, 99, -1)
    target = rotation_target(arrays, unseen, 60)
    assert target.n_classes == TURNS == 8
    source = np.concatenate([arrays["train_images"][unseen[:1000]], arrays["test_images"]])[..., 0]
    rows = np.concatenate([np.arange(1000), 1000 + np.random.default_rng(8000).permutation(90)[:60]])
    assert sorted(set(target.labels.tolist())) == list(range(8))
    checked = 0
    for row, image, turn in zip(rows, target.pixels[..., 0].numpy(), target.labels.tolist(), strict=True):
        if turn % 2 == 0:  # quarter turns move pixels and mix none
            assert np.array_equal(image, np.rot90(source[row], turn // 2))
            checked += 1
        else:
            assert image[0, 0] == 0  # behind a corner that was turned away it is black
    assert checked > 400


def test_only_the_first_thousand_unseen_images_train(arrays):
    unseen = np.arange(1200)
    longer = np.concatenate([unseen[:1000], np.zeros(200, int)])
    one, other = (rotation_target(arrays, rows, 30) for rows in (unseen, longer))
    assert np.array_equal(one.pixels.numpy(), other.pixels.numpy())
