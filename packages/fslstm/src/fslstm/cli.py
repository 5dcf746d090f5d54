"""The command line `fslstm`."""

import sys

from sextet import cli


def main() -> None:
    """Entry point."""
    commands = {
        "glyphs": cli.Deferred("fslstm.recipe:RECIPE", "The experiments at laptop size, on open images."),
        "paper": cli.Deferred("fslstm.paper:PAPER", "The paper's experiments."),
    }
    sys.exit(cli.main(commands, prog="fslstm", description="Few-shot learning with an LS-SVM base learner."))
