"""The store: datasets decoded on disk, fetched, adopted, checked and opened.

A dataset lies as `<root>/<name>/<array>.npy` beside a `passport.json` that says which source it came from and what
its content hash is. Whatever the source, the decoded arrays must have the hash in the passport.
"""

import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from sextet.data.archives import extract, is_archive
from sextet.data.errors import ChecksumMismatch, DataError, DataMissing
from sextet.data.passport import Arrays, Passport, content_hash, data_root

Status = Literal["absent", "present", "broken"]

MAX_FOLDERS = 2000
"""`adopt` looks into no more sub-folders than this, so that pointing it at a home folder ends."""


def state(passport: Passport, root: Path | None = None) -> Status:
    """Say cheaply (sizes and recorded hash, nothing re-hashed) whether the dataset is here and whole."""
    return inspect(passport, root)[0]


def inspect(passport: Passport, root: Path | None = None) -> tuple[Status, str]:
    """Return what `state` says, with one line on why."""
    folder = _root(root) / passport.name
    if not folder.exists():
        return "absent", f"nothing at {folder}"
    try:
        record, arrays = _open(passport, folder)
    except DataError as error:
        return "broken", str(error)
    return "present", f"{sum(a.nbytes for a in arrays.values()) / 1e6:.1f} MB from {record.get('source')}"


def recorded_hash(passport: Passport, root: Path | None = None) -> str | None:
    """Return the content hash of the stored dataset as recorded when it was stored; None where it is not present."""
    if state(passport, root) != "present":
        return None
    return str(_open(passport, _root(root) / passport.name)[0]["content_sha256"])


def verify(passport: Passport, root: Path | None = None) -> str:
    """Hash the stored arrays again and return the content hash.

    Raises `DataMissing` when absent, `DataError` when broken, `ChecksumMismatch` when the content is another (it is
    then moved aside, so that the next `load` fetches afresh).
    """
    root = _root(root)
    folder = root / passport.name
    if not folder.exists():
        raise DataMissing(_how_to_get(passport, root, ()))
    record, arrays = _open(passport, folder)
    found = content_hash(arrays)
    if found != record["content_sha256"]:
        with _lock(passport, root):
            kept = _set_aside(folder, passport, root, found)
        raise ChecksumMismatch(passport.title, record["content_sha256"], found, kept)
    return found


def adopt(passport: Passport, folder: Path | str, root: Path | None = None) -> Path:
    """Store the dataset from a folder or archive the user already has; return the stored folder.

    The folder, its sub-folders and the archives in it are tried by content until one has the expected hash; the
    user's files are only read. Raises `DataMissing` when the dataset is not there, `ChecksumMismatch` or `DataError`
    when it is damaged.
    """
    root, path = _root(root), Path(folder).expanduser()
    if not path.exists():
        raise DataMissing(f"{path} does not exist; give the folder or archive that holds {passport.title}")
    archives = sorted(file for file in path.iterdir() if is_archive(file)) if path.is_dir() else []
    failures: list[DataError] = []
    with _lock(passport, root):
        scratch = _emptied(_work(passport, root) / "adopted")
        for number, candidate in enumerate([path, *archives]):
            try:
                raw = _raw_folder(candidate, scratch / str(number))
                arrays, digest = _decode(passport, raw, shown=path)
            except DataError as error:
                failures.append(error)
            else:
                return _store(passport, arrays, digest, root, source=f"adopted from {path}", got={})
        shutil.rmtree(scratch)
    raise next((error for error in failures if not isinstance(error, DataMissing)), failures[0])


def fetch(passport: Passport, root: Path | None = None) -> Path:
    """Get the dataset from the first source that works, check it, store it; return the stored folder.

    Two processes at once: the second waits for the first and finds the data present. Raises `DataMissing` naming
    every source's failure, or `ChecksumMismatch` when one of them delivered something else.
    """
    root = _root(root)
    folder = root / passport.name
    failures: list[tuple[str, DataError]] = []
    with _lock(passport, root):
        status, _ = inspect(passport, root)
        if status == "present":
            return folder
        if status == "broken":
            _set_aside(folder, passport, root, "broken")
        for number, source in enumerate(passport.sources):
            raw = _work(passport, root) / f"{number}-{type(source).__name__}"
            raw.mkdir(parents=True, exist_ok=True)
            try:
                got = source.fetch(raw)
                arrays, digest = _decode(passport, raw, shown=raw)
            except ChecksumMismatch as error:
                kept = _set_aside(raw, passport, root, error.found)
                failures.append((source.describe(), ChecksumMismatch(error.what, error.expected, error.found, kept)))
            except DataError as error:
                failures.append((source.describe(), error))
            else:
                return _store(passport, arrays, digest, root, source=source.describe(), got=got)
    message = _how_to_get(passport, root, failures)
    for _, error in failures:
        if isinstance(error, ChecksumMismatch):
            raise ChecksumMismatch(message, error.expected, error.found, error.kept)
    raise DataMissing(message)


def load(passport: Passport, root: Path | None = None, download: bool = True) -> Arrays:
    """Return the dataset's arrays, memory-mapped and read-only; fetch them first when absent and `download`.

    Raises what `fetch` raises; with `download=False`, `DataMissing` when absent and `DataError` when broken.
    """
    root = _root(root)
    status, details = inspect(passport, root)
    if status != "present" and download:
        fetch(passport, root)
    elif status == "absent":
        raise DataMissing(_how_to_get(passport, root, ()))
    elif status == "broken":
        raise DataError(f"{details}; delete it or fetch it again")
    return _open(passport, root / passport.name)[1]


def _root(root: Path | None) -> Path:
    return data_root() if root is None else Path(root).expanduser()


def _lock(passport: Passport, root: Path) -> FileLock:
    root.mkdir(parents=True, exist_ok=True)
    return FileLock(root / f".{passport.name}.lock")


def _work(passport: Passport, root: Path) -> Path:
    """Where unfinished things of this dataset lie, partial downloads among them; removed once it is stored."""
    return root / ".work" / passport.name


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _open(passport: Passport, folder: Path) -> tuple[dict[str, Any], Arrays]:
    """Map the stored arrays and compare them with the record; raises `DataError`."""
    try:
        record = json.loads((folder / "passport.json").read_text(encoding="utf-8"))
        expected = passport.content_sha256 or record["content_sha256"]
        if record["content_sha256"] != expected:
            raise DataError(f"{folder} has content hash {record['content_sha256']}, the passport says {expected}")
        arrays: Arrays = {}
        for name, (dtype, shape) in record["arrays"].items():
            if not name.isidentifier():
                raise DataError(f"{folder}: {name!r} is no array name")
            arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            if (arrays[name].dtype.str, list(arrays[name].shape)) != (dtype, shape):
                raise DataError(
                    f"{folder / name}.npy is {arrays[name].dtype.str} {arrays[name].shape}, not as recorded"
                )
    except DataError:
        raise
    except Exception as error:  # what numpy raises for a damaged header depends on the damage: SyntaxError, TokenError
        raise DataError(f"{folder} is not a whole dataset ({type(error).__name__}: {error})") from error
    return record, arrays


def _folders(folder: Path) -> Iterator[Path]:
    """Yield the folder and its sub-folders, in a fixed order, links not followed."""
    for number, (path, names, _) in enumerate(os.walk(folder)):
        if number == MAX_FOLDERS:
            return
        names.sort()
        yield Path(path)


def _raw_folder(path: Path, scratch: Path) -> Path:
    """Return a folder with the contents of `path`: itself, or `scratch` with the unpacked archive or single file."""
    if path.is_dir():
        return path
    if is_archive(path):
        return extract(path, scratch)
    scratch.mkdir()
    shutil.copyfile(path, scratch / path.name)
    return scratch


def _decode(passport: Passport, folder: Path, shown: Path) -> tuple[Arrays, str]:
    """Decode the first folder below `folder` whose content has the passport's hash; return arrays and hash."""
    failure: DataError | None = None
    for candidate in _folders(folder):
        try:
            arrays = passport.decode(candidate)
            for name, rows in passport.counts.items():
                if len(arrays[name]) != rows:
                    raise DataError(f"{candidate}: {name} has {len(arrays[name])} rows instead of {rows}")
        except DataMissing:
            continue
        except DataError as error:
            failure = failure or error
            continue
        digest = content_hash(arrays)
        if passport.content_sha256 in (None, digest):
            return arrays, digest
        failure = ChecksumMismatch(passport.title, str(passport.content_sha256), digest, shown)
    raise failure or DataMissing(f"no {passport.title} found in {shown}. {passport.instructions}")


def _store(passport: Passport, arrays: Arrays, digest: str, root: Path, *, source: str, got: dict[str, str]) -> Path:
    """Write arrays and record into a work folder, then rename it to its final name (the lock is held)."""
    folder = root / passport.name
    record = {
        "name": passport.name,
        "title": passport.title,
        "homepage": passport.homepage,
        "licence": passport.licence,
        "content_sha256": digest,
        "source": source,
        "got": got,
        "facts": passport.facts(arrays) if passport.facts else {},
        "arrays": {name: [array.dtype.str, list(array.shape)] for name, array in sorted(arrays.items())},
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }
    staging = _emptied(_work(passport, root) / "new")
    for name, array in arrays.items():
        np.save(staging / f"{name}.npy", array, allow_pickle=False)
    (staging / "passport.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if folder.exists():
        os.replace(folder, _emptied(_work(passport, root) / "old"))
    os.replace(staging, folder)
    shutil.rmtree(_work(passport, root), ignore_errors=True)
    return folder


def _set_aside(path: Path, passport: Passport, root: Path, tag: str) -> Path:
    """Move what must not be used to `<name>.rejected-<first eight of tag>`, replacing an earlier one."""
    kept = root / f"{passport.name}.rejected-{tag[:8]}"
    shutil.rmtree(kept, ignore_errors=True)
    os.replace(path, kept)
    return kept


def _how_to_get(passport: Passport, root: Path, failures: Sequence[tuple[str, DataError]]) -> str:
    lines = [
        f"{passport.title} is not in {root / passport.name}.",
        f"  homepage: {passport.homepage}; licence: {passport.licence}; size: {passport.size}",
        *(f"  tried {source}: {error}" for source, error in failures),
        *([] if failures else [f"  can be fetched from {source.describe()}" for source in passport.sources]),
        f"  by hand: {passport.instructions} Then adopt that folder as {passport.name!r}.",
    ]
    return "\n".join(lines)
