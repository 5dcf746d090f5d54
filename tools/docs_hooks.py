"""Hooks of the documentation's site: nothing is loaded from elsewhere, and no link leads out of it to nowhere."""

from __future__ import annotations

import re
from typing import Any

# For its search in pages opened from the disk, the theme would load a helper from elsewhere
SHIM = re.compile(r'<script src="https://unpkg\.com/[^"]*"></script>')
OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Before a page is rendered: links to files of the repository, which are not in the site, become plain text."""
    return OUTSIDE.sub(r"\1", markdown)


def on_post_page(output: str, **_: Any) -> str:
    """After a page is rendered: without scripts from elsewhere."""
    return SHIM.sub("", output)


def on_post_template(output_content: str, **_: Any) -> str:
    """The same for pages that are not written in Markdown, such as the one for addresses that do not exist."""
    return SHIM.sub("", output_content)
