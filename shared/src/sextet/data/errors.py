"""What can be wrong with data. Every error is a `ValueError` whose message says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DataError(ValueError):
    """Anything wrong with data: malformed, damaged, not what its passport says."""


class DataMissing(DataError):
    """The data is not here and nothing could fetch it."""


class SourceUnavailable(DataError):
    """One source cannot be used here (no such client, no network); the next one may."""


class UnsafeArchive(DataError):
    """An archive that would write outside its folder, link elsewhere or grow beyond its bounds."""


class ChecksumMismatch(DataError):
    """Data whose hash is not the expected one. It lies at `kept` for inspection and is never used."""

    def __init__(self, what: str, expected: str, found: str, kept: Path) -> None:
        super().__init__(what, expected, found, kept)
        self.what, self.expected, self.found, self.kept = what, expected, found, kept

    def __str__(self) -> str:
        return f"{self.what}: expected hash {self.expected}, found {self.found}; left unused at {self.kept}"


@contextmanager
def naming_image(where: object, hint: str = "") -> Iterator[None]:
    """Around Pillow: whatever it raises for a damaged file leaves as a `DataError` that names the file.

    MemoryError too, for a damaged length in a PNG file makes Pillow ask for that many bytes.
    """
    from PIL.Image import DecompressionBombError

    try:
        yield
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, Warning, MemoryError, RecursionError, DecompressionBombError) as error:
        raise DataError(f"{where} is not read ({type(error).__name__}: {error}){hint}") from error
