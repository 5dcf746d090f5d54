"""Whatever Pillow raises for a damaged file names the file."""

from __future__ import annotations

import pytest
from PIL.Image import DecompressionBombError

from sextet.data.errors import DataError, DataMissing, naming_image


@pytest.mark.parametrize(
    "raised", [OSError, SyntaxError, ValueError, UserWarning, MemoryError, RecursionError, DecompressionBombError]
)
def test_a_damaged_image_is_named(raised):
    with (
        pytest.raises(DataError, match=r"^a\.png is not read \(.*broken.*\); look there$") as found,
        naming_image("a.png", "; look there"),
    ):
        raise raised("broken")
    assert isinstance(found.value.__cause__, raised)


def test_our_own_errors_and_bugs_pass():
    for error in (DataMissing("get it there"), KeyError("bug")):
        with pytest.raises(type(error)) as found, naming_image("a.png"):
            raise error
        assert found.value is error
