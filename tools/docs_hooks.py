"""Hooks of the documentation's site: links to files of the repository become plain text, since they are not in it."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this for every page before it is rendered."""
    return OUTSIDE.sub(r"\1", markdown)
