import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import ImageFont

from sextet.data import GLYPHS, DataError, DataMissing, glyphs
from sextet.data.glyphs import (
    CHARACTERS,
    decode_glyphs,
    fit,
    font_files,
    glyph_facts,
    median_correlation,
    render,
    render_font,
)


@pytest.fixture(scope="session")
def font_bytes():
    """The one font that comes with Pillow itself."""
    font = ImageFont.load_default(10)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font.font_bytes


def test_fit_worked_example():
    image = fit(np.full((10, 5), 200, np.uint8))
    expected = np.zeros((32, 32), np.uint8)
    expected[4:28, 10:22] = 200
    assert np.array_equal(image, expected)


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=60), elements=st.integers(1, 255)))
def test_fit_keeps_the_shape_and_the_centre(ink):
    rows, columns = (np.flatnonzero(fit(ink).any(axis=axis)) for axis in (1, 0))
    sides = [side.max() - side.min() + 1 for side in (rows, columns)]
    assert max(sides) == 24
    assert sides == [max(1, round(24 / max(ink.shape) * side)) for side in ink.shape]
    assert all(abs(side.min() + side.max() - 31) <= 1 for side in (rows, columns))


@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 3), st.just(4), st.just(4))))
def test_median_correlation_like_its_definition(stack):
    naive = []
    for font in stack:
        values = []
        for character, image in enumerate(font):
            x, m = image.ravel().astype(float), np.median(stack[:, character], axis=0).ravel()
            values.append(np.corrcoef(x, m)[0, 1] if np.ptp(x) and np.ptp(m) else 0.0)
        naive.append(np.mean(values))
    np.testing.assert_allclose(median_correlation(stack), naive, atol=1e-9)


def test_a_real_font_is_rendered(tmp_path, font_bytes):
    (tmp_path / "font.ttf").write_bytes(font_bytes)
    rendered = render_font(tmp_path / "font.ttf")
    assert rendered is not None
    family, style, images = rendered
    assert (family, style) == ("Aileron", "Regular")
    assert images.shape == (62, 32, 32)
    assert images.dtype == np.uint8
    for image in images:
        assert image.max() > 128
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 24
    tall_bar, hole, ink = (images[CHARACTERS.index(character)] for character in "lOX")
    assert np.ptp(np.flatnonzero(tall_bar.any(axis=0))) < 8
    assert hole[16, 16] == 0
    assert ink[16, 16] > 128
    assert len({image.tobytes() for image in images}) == 62


def test_a_font_that_lacks_a_character_is_left_out(tmp_path, font_bytes, monkeypatch):
    (tmp_path / "font.ttf").write_bytes(font_bytes)
    for lacking in ("\u540d", " "):
        monkeypatch.setattr(glyphs, "CHARACTERS", "ab" + lacking)
        assert render_font(tmp_path / "font.ttf") is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_fonts_are_left_out_or_rendered(tmp_path, font_bytes, data):
    body = bytearray(font_bytes[: data.draw(st.integers(0, len(font_bytes)))])
    for _ in range(data.draw(st.integers(0, 5)) if body else 0):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "font.ttf").write_bytes(body)
    rendered = render_font(tmp_path / "font.ttf")
    assert rendered is None or rendered[2].shape == (62, 32, 32)


def test_font_files_count_once_by_content(tmp_path, font_bytes):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name, body in {"b.ttf": b"1", "a.OTF": b"1", "deep/er/c.pfb": b"2", "notes.txt": b"3"}.items():
        (tmp_path / name).write_bytes(body)
    (tmp_path / "link.ttf").symlink_to("deep/er/c.pfb")
    assert sorted(path.name for path in font_files(tmp_path).values()) == ["a.OTF", "c.pfb"]


@pytest.fixture
def fonts(monkeypatch, tmp_path):
    """Six made-up fonts by hash: two families, one copy with equal images, one unlike all others, one unreadable."""
    rng = np.random.default_rng(0)
    shapes = rng.integers(0, 256, (62, 32, 32))
    like = [(0.8 * shapes + 0.2 * rng.integers(0, 256, shapes.shape)).astype(np.uint8) for _ in range(3)]
    unlike = (255 - shapes).astype(np.uint8)
    known = {
        "1": ("Beta", "Bold", like[0]),
        "2": ("Beta", "Bold", like[0]),
        "3": ("Alpha", "", like[1]),
        "4": ("Beta", "Italic", like[2]),
        "5": ("Alpha", "Negative", unlike),
        "6": None,
    }
    monkeypatch.setattr(glyphs, "render_font", lambda file: known[file.name])
    return {digest: tmp_path / digest for digest in known}


def test_render_sorts_and_leaves_out(fonts):
    arrays = render(fonts)
    assert arrays["font_names"].tolist() == ["Alpha", "Beta Bold", "Beta Italic"]
    assert arrays["font_families"].tolist() == ["Alpha", "Beta", "Beta"]
    assert arrays["font_sha256"].tolist() == ["3", "1", "4"]
    assert arrays["images"].shape == (3 * 62, 32, 32, 1)
    assert arrays["labels"].tolist() == list(range(62)) * 3
    assert arrays["fonts"].tolist() == [0] * 62 + [1] * 62 + [2] * 62
    assert [arrays[name].dtype.str for name in ("images", "labels", "fonts")] == ["|u1", "<i8", "<i8"]
    assert len(render(fonts, min_correlation=-1)["font_names"]) == 4


def test_render_does_not_depend_on_the_order_of_files(fonts):
    first, second = render(fonts), render(dict(reversed(fonts.items())))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_facts_name_the_renderer_and_the_fonts(fonts):
    facts = glyph_facts(render(fonts))
    assert facts["fonts"] == "3"
    assert len(facts["fonts_manifest_sha256"]) == 64
    assert all(facts[name][0].isdigit() for name in ("pillow", "freetype"))


def test_folders_without_enough_fonts(tmp_path, font_bytes):
    with pytest.raises(DataMissing, match="no font files"):
        decode_glyphs(tmp_path)
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    with pytest.raises(DataMissing, match="62 characters"):
        decode_glyphs(tmp_path)
    (tmp_path / "font.ttf").write_bytes(font_bytes)
    with pytest.raises(DataError, match="only 1 usable"):
        decode_glyphs(tmp_path)


def test_a_folder_with_enough_fonts(tmp_path, monkeypatch, fonts):
    folder = tmp_path / "fonts"
    folder.mkdir()
    (folder / "a.ttf").write_bytes(b"")
    enough = render(fonts)
    enough["font_names"] = np.array([f"font {number}" for number in range(20)])
    monkeypatch.setattr(glyphs, "render", lambda files: enough if len(files) == 1 else None)
    assert decode_glyphs(folder) is enough


def test_the_passport_names_packages_once():
    (source,) = GLYPHS.sources
    packages = [*source.names, *source.optional]
    assert len(set(packages)) == len(packages) > 40
    assert all(name.startswith("fonts-") for name in packages)
    assert "".join(GLYPHS.class_names) == CHARACTERS
