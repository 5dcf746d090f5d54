"""MATLAB files (up to version 7), read in a process of their own: damaged ones can crash the reader, not only fail."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sextet.data.errors import DataError

MAX_BYTES = 64 << 20
_MEMORY = 4 << 30
_SECONDS = 300


def read_matlab(path: Path, name: str) -> Any:
    """One variable of a `.mat` file as plain values.

    Arrays become nested lists without axes of length 1, structures become mappings, text becomes strings.

    Args:
        path: the file, of at most 64 MiB.
        name: of the variable.

    Raises:
        DataError: the file is missing, too large, damaged, of version 7.3, or without the variable.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} is not read ({error})") from error
    if size > MAX_BYTES:
        raise DataError(f"{path}: {size} bytes, more than the {MAX_BYTES} allowed")
    words = [sys.executable, "-m", "sextet.data.matlab", str(path.resolve()), name]
    try:
        done = subprocess.run(words, capture_output=True, timeout=_SECONDS, check=False)
        if done.returncode == 0:
            return json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise DataError(f"{path} is not read ({type(error).__name__})") from error
    said = done.stderr.decode(errors="replace").strip().splitlines()
    raise DataError(f"{path} is not read ({said[-1] if said else f'its reader died, exit code {done.returncode}'})")


def plain(value: Any) -> Any:
    """What scipy made of a variable, as values that JSON can hold."""
    if isinstance(value, np.void) and value.dtype.names:
        return {field: plain(value[field]) for field in value.dtype.names}
    if isinstance(value, np.ndarray) and value.ndim and (value.dtype.names or value.dtype == object):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value[()]) if value.dtype.names or value.dtype == object else value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def _main(path: str, name: str) -> None:
    import warnings

    from scipy.io import loadmat

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    warnings.simplefilter("ignore")
    content: Mapping[str, Any] = loadmat(path, squeeze_me=True, variable_names=[name])
    if name not in content:
        raise SystemExit(f"it has no variable {name!r}")
    json.dump(plain(content[name]), sys.stdout)


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except Exception as problem:
        raise SystemExit(f"{type(problem).__name__}: {problem}") from None
