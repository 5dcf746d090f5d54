"""The command line `bi-adapter`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from sextet import cli

LARGEST_HEADER = 1 << 24


def show(folder: Path) -> None:
    """Print what an adapter's folder holds, as JSON; no backbone is needed.

    Args:
        folder: what `save_pretrained` wrote.
    """
    from bi_adapter.folder import read_limited
    from bi_adapter.serialise import CONFIG_FILE, parse_header

    header = parse_header(read_limited(folder / CONFIG_FILE, LARGEST_HEADER))
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    print(json.dumps({**asdict(header.info), "fingerprint": header.fingerprint, "bytes": size}, indent=1))


def main() -> None:
    """Entry point."""
    commands = {
        "show": show,
        "laptop": cli.Deferred("bi_adapter.recipe:RECIPE", "The experiments at laptop size, on open images."),
        "paper": cli.Deferred("bi_adapter.paper:PAPER", "The paper's experiments."),
    }
    sys.exit(cli.main(commands, prog="bi-adapter", description="1-bit adapters for vision transformers."))
