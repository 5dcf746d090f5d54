"""The command line `cdfsl-ata`."""

import sys
from pathlib import Path
from typing import Literal

from sextet import cli


def adopt_domain(domain: str, folder: Path, unreadable: Literal["raise", "skip"] = "raise") -> None:
    """Store a domain of the benchmark out of a folder or archive.

    Args:
        domain: its name: cub, eurosat, ...
        folder: where its files lie, in any common layout.
        unreadable: what happens to images that cannot be read: raise at the first, or skip them.
    """
    from cdfsl_ata.datasets import DOMAINS, passport
    from sextet.data import DataError, adopt, load

    if domain not in DOMAINS:
        raise DataError(f"domain: expected one of {', '.join(DOMAINS)}, got {domain!r}")
    chosen = passport(DOMAINS[domain], unreadable=unreadable)
    print(f"stored in {adopt(chosen, folder)}")
    skipped = load(chosen, download=False).get("unreadable", ())
    if len(skipped):
        print(f"{len(skipped)} images could not be read and were left out: {', '.join(skipped[:20])}")


def main() -> None:
    """Entry point."""
    commands = {
        "laptop": cli.Deferred("cdfsl_ata.recipe:RECIPE", "The experiments at laptop size, on open images."),
        "paper": cli.Deferred("cdfsl_ata.paper:PAPER", "The paper's experiments."),
        "adopt": adopt_domain,
    }
    sys.exit(cli.main(commands, prog="cdfsl-ata", description="Cross-domain few-shot learning with ATA."))
