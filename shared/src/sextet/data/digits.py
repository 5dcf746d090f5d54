"""The digits of scikit-learn: 1,797 handwritten digits of 8x8 pixels, inside the installed package."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from sextet.data.errors import DataError, DataMissing
from sextet.data.packages import PythonPackage
from sextet.data.passport import Arrays, Passport

MAX_BYTES = 1 << 20


def decode_digits(folder: Path) -> Arrays:
    """Return `images` uint8 `[1797, 8, 8, 1]` and `labels` int64 `[1797]` from `digits.csv.gz` in `folder`.

    The file has the grey levels 0..16; they are stretched to 0..255 by `round(255 / 16 * level)`.
    """
    path = folder / "digits.csv.gz"
    if not path.is_file():
        raise DataMissing(f"{folder} has no digits.csv.gz")
    try:
        with gzip.open(path) as file:
            text = file.read(MAX_BYTES).decode("ascii")
        rows = np.array([line.split(",") for line in text.split()], dtype=np.float64)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if rows.ndim != 2 or rows.shape[1] != 65 or not np.isin(rows, range(17)).all():
        raise DataError(f"{path} must have 65 integers in 0..16 a line, found {rows.shape}")
    # [images, height, width, channels]:
    images = np.rint(rows[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return {"images": images, "labels": rows[:, 64].astype(np.int64)}


DIGITS = Passport(
    name="digits",
    title="scikit-learn digits: 1,797 handwritten digits, 8x8 grey",
    homepage="https://archive.ics.uci.edu/dataset/80",
    licence="CC BY 4.0",
    size="0.1 MB",
    sources=(PythonPackage("scikit-learn", ("sklearn/datasets/data/digits.csv.gz",)),),
    decode=decode_digits,
    content_sha256="fd9029067f355fdc0855f7209d1012369b1dcc9d9bbb4ea32de0c781c8c30684",
    instructions="Install scikit-learn, or get its file sklearn/datasets/data/digits.csv.gz into a folder.",
    class_names=tuple("0123456789"),
    counts={"images": 1797},
)
