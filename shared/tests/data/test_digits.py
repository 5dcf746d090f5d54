import gzip

import numpy as np
import pytest

from sextet.data import DIGITS, DataError, DataMissing, Images, load, verify
from sextet.data.digits import decode_digits


def test_digits_are_those_of_scikit_learn(tmp_path):
    from sklearn.datasets import load_digits

    arrays = load(DIGITS, tmp_path)
    images, labels = load_digits(return_X_y=True)
    assert np.array_equal(arrays["labels"], labels)
    assert np.array_equal(np.rint(arrays["images"].reshape(1797, 64) * (16 / 255)), images)
    assert (arrays["images"].min(), arrays["images"].max()) == (0, 255)
    assert len(Images.of(DIGITS, arrays)) == 1797
    assert verify(DIGITS, tmp_path) == DIGITS.content_sha256


LINE = ",".join(["1"] * 65)


@pytest.mark.parametrize(
    "body",
    [
        b"no gzip",
        gzip.compress(LINE.encode(), mtime=0)[:-9],
        *(
            gzip.compress(text.encode(), mtime=0)
            for text in ("", "1,2", LINE + "\n1", LINE.replace("1", "17"), "x," * 64 + "x")
        ),
        gzip.compress(b"\xff" * 65, mtime=0),
        gzip.compress(LINE.replace("1", "nan").encode(), mtime=0),
        gzip.compress(LINE.replace("1", "1.5").encode(), mtime=0),
    ],
)
def test_bad_files(tmp_path, body):
    (tmp_path / "digits.csv.gz").write_bytes(body)
    with pytest.raises(DataError, match=r"digits\.csv\.gz"):
        decode_digits(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(DataMissing):
        decode_digits(tmp_path)
