"""Glyphs: 62 letters and digits rendered here from the font files of Debian packages; nothing is redistributed."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sextet.data.errors import DataError, DataMissing
from sextet.data.packages import DebianPackage
from sextet.data.passport import Arrays, Passport

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SIDE = 32
INK_SIDE = 24
FONT_PIXELS = 64
MAX_INK_PIXELS = 1024
MIN_CORRELATION = 0.25

_SUFFIXES = (".ttf", ".otf", ".pfb")
_NOT_A_CHARACTER = "\uffff"


def render_character(font: "FreeTypeFont", character: str) -> np.ndarray | None:
    """Return the ink of one character at the font's size, uint8 `[height, width]`; None where there is none."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = (round(edge) for edge in font.getbbox(character))
    if not (0 < right - left <= MAX_INK_PIXELS and 0 < bottom - top <= MAX_INK_PIXELS):
        return None
    canvas = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(canvas).text((-left, -top), character, fill=255, font=font)
    box = canvas.getbbox()
    return np.asarray(canvas.crop(box)) if box else None


def fit(ink: np.ndarray) -> np.ndarray:
    """Scale ink `[height, width]` to a longest side of 24 and centre it on black, uint8 `[32, 32]`."""
    from PIL import Image

    scale = INK_SIDE / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    canvas = Image.new("L", (SIDE, SIDE))
    small = Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR)
    canvas.paste(small, ((SIDE - width) // 2, (SIDE - height) // 2))
    return np.asarray(canvas)


def render_font(file: Path) -> tuple[str, str, np.ndarray] | None:
    """Return a font's family, style and glyphs, uint8 `[62, 32, 32]`; None where it is unreadable or incomplete.

    A character is lacking when it has no ink or the same ink as a code point that is never assigned (U+FFFF), which
    every font draws as its "missing" sign.
    """
    from PIL import ImageFont

    try:
        font = ImageFont.truetype(str(file), FONT_PIXELS, layout_engine=ImageFont.Layout.BASIC)
        missing = render_character(font, _NOT_A_CHARACTER)
        inks = [render_character(font, character) for character in CHARACTERS]
        family, style = (name or "" for name in font.getname())
    except (OSError, ValueError, SyntaxError, MemoryError):
        return None
    glyphs = [
        fit(ink) for ink in inks if ink is not None and not (missing is not None and np.array_equal(ink, missing))
    ]
    return (family, style, np.stack(glyphs)) if len(glyphs) == len(CHARACTERS) else None


def median_correlation(glyphs: np.ndarray) -> np.ndarray:
    """Return how much each font looks like the others, float64 `[fonts]` in [-1, 1], of uint8 `[fonts, 62, 32, 32]`.

    1. m_c = the pixelwise median over all given fonts of their images of character c.
    2. r_fc = the Pearson correlation, over the 32 x 32 pixels, of font f's image of c with m_c (0 where either is
       constant).
    3. r_f = the mean of r_fc over the 62 characters.
    """
    # [fonts, characters, pixels]:
    flat = glyphs.reshape(*glyphs.shape[:2], -1)
    # [characters, pixels]:
    median = _standardised(np.median(flat, axis=0))
    return np.array([(_standardised(font) * median).sum(axis=-1).mean() for font in flat])


def _standardised(rows: np.ndarray) -> np.ndarray:
    """Centre the rows of `[..., pixels]` and scale them to length one."""
    centred = rows - rows.mean(axis=-1, keepdims=True, dtype=np.float64)
    return centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), 1e-12)


def font_files(folder: Path) -> dict[str, Path]:
    """Return the font files below `folder` by the SHA-256 of their content; links and second copies are left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES)
    by_hash: dict[str, Path] = {}
    for path in files:
        if path.is_file() and not path.is_symlink():
            by_hash.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    return by_hash


def render(fonts: dict[str, Path], min_correlation: float = MIN_CORRELATION) -> Arrays:
    """Render fonts (by content hash) to the arrays of `GLYPHS`; the order depends on names and contents only.

    Fonts are sorted by family, style and content hash. One that lacks a character, cannot be read, or has exactly
    the images of an earlier one is left out; of the rest, those with a `median_correlation` below `min_correlation`.

    Arrays: `images` uint8 `[62 * fonts, 32, 32, 1]` font by font, `labels` int64 (0..61, an index into `CHARACTERS`),
    `fonts` int64 (an index into the following three), `font_families`, `font_names` and `font_sha256`, text `[fonts]`.
    """
    rendered = [(*font, digest) for digest, file in fonts.items() if (font := render_font(file)) is not None]
    rendered.sort(key=lambda font: (font[0], font[1], font[3]))
    by_images: dict[bytes, tuple[str, str, np.ndarray, str]] = {}
    for font in rendered:
        by_images.setdefault(font[2].tobytes(), font)
    distinct = list(by_images.values())
    if not distinct:
        raise DataMissing("no font with all 62 characters")
    # [fonts, 62, 32, 32]:
    glyphs = np.stack([font[2] for font in distinct])
    kept = np.flatnonzero(median_correlation(glyphs) >= min_correlation)
    return {
        "images": glyphs[kept].reshape(-1, SIDE, SIDE, 1),
        "labels": np.tile(np.arange(len(CHARACTERS)), len(kept)),
        "fonts": np.repeat(np.arange(len(kept)), len(CHARACTERS)),
        "font_families": _text(distinct[i][0] for i in kept),
        "font_names": _text(f"{distinct[i][0]} {distinct[i][1]}".strip() for i in kept),
        "font_sha256": _text(distinct[i][3] for i in kept),
    }


def _text(values: Iterable[str]) -> np.ndarray:
    return np.array(list(values), dtype=np.str_)


def decode_glyphs(folder: Path) -> Arrays:
    """Render every font file below `folder`; raises `DataMissing` where there is none, `DataError` where few fit."""
    files = font_files(folder)
    if not files:
        raise DataMissing(f"no font files in {folder}")
    arrays = render(files)
    if len(arrays["font_names"]) < 20:
        raise DataError(f"{folder}: only {len(arrays['font_names'])} usable fonts; at least 20 are needed")
    return arrays


def glyph_facts(arrays: Arrays) -> dict[str, str]:
    """Return the counts, the hash of the kept font files' hashes and the versions of the renderer."""
    import PIL
    from PIL import features

    manifest = "\n".join(sorted(arrays["font_sha256"].tolist()))
    return {
        "fonts": str(len(arrays["font_sha256"])),
        "fonts_manifest_sha256": hashlib.sha256(manifest.encode()).hexdigest(),
        "pillow": PIL.__version__,
        "freetype": str(features.version("freetype2")),
    }


_NEEDED = ("fonts-aenigma", "fonts-dejavu-core", "fonts-dejavu-extra", "fonts-lato", "fonts-liberation")
_WHERE_KNOWN = """
    adf-accanthis adf-baskervald adf-berenis adf-gillius adf-ikarius adf-irianis adf-libris adf-mekanus adf-oldania
    adf-romande adf-solothurn adf-switzera adf-tribun adf-universalis adf-verana averia-gwf averia-sans-gwf
    averia-serif-gwf bwht cabin comfortaa comic-neue dancingscript dosis dustin ebgaramond eurofurence freefont-ttf
    georgewilliams gotico-antiqua jura linuxlibertine oldstandard opendyslexic quicksand sjfonts tiresias tuffy
    vollkorn yanone-kaffeesatz
"""

GLYPHS = Passport(
    name="glyphs",
    title="62 letters and digits rendered from free fonts",
    homepage="https://www.debian.org/",
    licence="each font's own (see each package's copyright file); rendered locally, nothing is redistributed",
    size="28 MB",
    sources=(DebianPackage(_NEEDED, optional=tuple(f"fonts-{name}" for name in _WHERE_KNOWN.split())),),
    decode=decode_glyphs,
    content_sha256=None,
    instructions="Any folder of .ttf, .otf or .pfb files with at least 20 complete fonts, such as the system's own.",
    class_names=tuple(CHARACTERS),
    facts=glyph_facts,
)
