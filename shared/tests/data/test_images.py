import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sextet.data import DataError, Images, to_float


@pytest.fixture
def images():
    pixels = np.arange(5 * 2 * 3 * 1, dtype=np.uint8).reshape(5, 2, 3, 1)
    return Images(pixels, np.array([2, 0, 2, 1, 0]), ("a", "b", "c"))


def test_select_relabels_in_the_order_given(images):
    chosen = images.select(["c", "a"])
    assert chosen.labels.tolist() == [0, 1, 0, 1]
    assert chosen.class_names == ("c", "a")
    assert np.array_equal(chosen.images, images.images[[0, 1, 2, 4]])
    assert len(chosen) == 4


def test_select_of_everything_is_everything(images):
    same = images.select(images.class_names)
    assert np.array_equal(same.images, images.images)
    assert same.content_sha256 == images.content_sha256


def test_subset_takes_indices_and_masks(images):
    assert images.subset([4, 0]).labels.tolist() == [0, 2]
    assert images.subset(images.labels == 2).images.shape == (2, 2, 3, 1)


def test_indices_by_class(images):
    assert [indices.tolist() for indices in images.indices_by_class()] == [[1, 4], [3], [0, 2]]


@given(st.lists(st.integers(0, 4)))
def test_indices_by_class_like_the_naive_loop(labels):
    images = Images(np.zeros((len(labels), 1, 1, 1), np.uint8), np.array(labels, np.int64), tuple("abcde"))
    naive = [[i for i, label in enumerate(labels) if label == k] for k in range(5)]
    assert [indices.tolist() for indices in images.indices_by_class()] == naive


def test_the_hash_sees_pixels_labels_and_names(images):
    changed = [
        Images(255 - images.images, images.labels, images.class_names),
        Images(images.images, images.labels[::-1].copy(), images.class_names),
        Images(images.images, images.labels, ("a", "b", "d")),
    ]
    assert len({one.content_sha256 for one in [images, *changed]}) == 4


def test_of_picks_a_split(make_tiny, arrays):
    split = {f"train_{name}": array for name, array in arrays.items()}
    assert Images.of(make_tiny(), split, "train").class_names == ("a", "b")
    assert len(Images.of(make_tiny(), arrays)) == 2
    with pytest.raises(DataError, match=r"no split 'test'; it has \['train'\]"):
        Images.of(make_tiny(), split, "test")


def test_to_float_worked_example():
    pixels = np.array([[[[0, 255], [51, 102]]]], np.uint8)
    result = to_float(pixels, mean=(0.5, 0.0), std=(0.5, 2.0))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, torch.tensor([[[[-1.0, -0.6]], [[0.5, 0.2]]]]))


@given(st.integers(0, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.randoms())
def test_to_float_against_float64(batch, height, width, channels, random):
    pixels = np.array([random.randrange(256) for _ in range(batch * height * width * channels)], np.uint8)
    pixels = pixels.reshape(batch, height, width, channels)
    mean, std = np.linspace(0.3, 0.6, channels), np.linspace(0.2, 0.4, channels)
    expected = ((pixels.astype(np.float64) / 255 - mean) / std).transpose(0, 3, 1, 2)
    result = to_float(torch.from_numpy(pixels), mean.tolist(), std.tolist())
    assert result.is_contiguous()
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-6)


def test_to_float_reads_memory_mapped_images(tmp_path, images):
    np.save(tmp_path / "x.npy", images.images)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert torch.equal(to_float(mapped, (0.0,), (1.0,)), to_float(images.images, (0.0,), (1.0,)))


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (np.zeros((2, 3, 3), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 3, 3, 1)), np.zeros(2, np.int64)),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2, np.int32)),
        (np.zeros((2, 3, 3, 1), np.uint8), np.array([0, 1])),
        (np.zeros((2, 3, 3, 1), np.uint8), np.array([0, -1])),
    ],
)
def test_bad_images(pixels, labels):
    with pytest.raises(DataError, match="must"):
        Images(pixels, labels, ("only",))


def test_bad_requests(images):
    with pytest.raises(DataError, match=r"unknown classes \['z'\]"):
        images.select(["z"])
    with pytest.raises(DataError, match="twice"):
        images.select(["a", "a"])
    with pytest.raises(ValueError, match="uint8"):
        to_float(images.images.astype(np.float32), (0.0,), (1.0,))
    with pytest.raises(ValueError, match="need 1 values"):
        to_float(images.images, (0.0, 0.0), (1.0, 1.0))
