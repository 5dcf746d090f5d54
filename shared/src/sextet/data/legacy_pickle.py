"""Third-party pickles of plain data, read without executing anything in them.

The official CIFAR archives and many few-shot datasets circulate as pickles. An ordinary unpickler calls whatever a
pickle names; this one knows plain containers, numbers, text and numpy arrays of numbers, and refuses all else.
"""

import pickle
import pickletools
import re
from pathlib import Path
from typing import IO, Any

import numpy as np

from sextet.data.errors import DataError

MAX_BYTES = 8 << 30
_PLAIN_DTYPE = re.compile(r"[<>|=]?(?:b1|i[1248]|u[1248]|f[248]|c8|c16|[SU][1-9]\d{0,4})")


class _Dtype:
    """Stands for `numpy.dtype` while unpickling: only plain numbers, truth values and fixed-length text."""

    def __init__(self, code: Any, _align: Any = False, _copy: Any = False) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not _PLAIN_DTYPE.fullmatch(code):
            raise DataError(f"arrays of dtype {code!r} are not read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """Stands for `numpy.ndarray` while unpickling: its state is checked before numpy sees it."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise DataError("an array of objects is not read")
        plain = (1, tuple(shape), dtype.dtype, bool(fortran), data)
        super().__setstate__(plain)  # pyright: ignore[reportArgumentType]  (numpy takes a bool, its stub numpy.bool)


def _reconstruct(_kind: Any, _shape: Any, _code: Any) -> np.ndarray:
    return _Array((0,), np.uint8)


def _scalar(dtype: Any, data: Any) -> Any:
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, dtype.dtype, count=1)[0]


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise DataError(f"text encoded as {encoding!r} is not read")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    """Stands for `bytes`, which old protocols call for empty ones only."""
    return b""


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): "ndarray",  # only ever named, never called
    ("_codecs", "encode"): _latin1,
    **{(module, "bytes"): _empty_bytes for module in ("builtins", "__builtin__")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{
        (module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (list, dict, set, frozenset)
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise DataError(f"it asks for {module}.{name}, which is not plain data") from None


def _check_memo(file: IO[bytes]) -> None:
    """Refuse memo numbers beyond what the file can have stored: the unpickler would reserve memory up to them."""
    for count, (opcode, number, _) in enumerate(pickletools.genops(file)):
        if "PUT" in opcode.name and isinstance(number, int) and number > count + 1:
            raise DataError(f"it numbers its object {count} as {number}")


def load_legacy_pickle(path: Path, encoding: str = "latin1", max_bytes: int = MAX_BYTES) -> Any:
    """Return the plain data in a pickle: containers, numbers, text, numpy arrays of numbers.

    Arrays come as a subclass of `numpy.ndarray`; `np.asarray` gives the plain array. `encoding` is how Python 2 text
    is read. Raises `DataError` when the file is damaged, larger than `max_bytes`, or holds anything else; no code named
    in it is ever called. (A file crafted to take forever may still do so.)
    """
    try:
        if path.stat().st_size > max_bytes:
            raise DataError(f"larger than the {max_bytes} bytes allowed")
        with path.open("rb") as file:
            _check_memo(file)
            file.seek(0)
            return _Unpickler(file, encoding=encoding).load()
    except Exception as error:  # a hostile pickle may raise anything
        raise DataError(f"{path} is not read ({error if isinstance(error, DataError) else repr(error)})") from error
