"""The command line `fslstm`."""

import sys

from fslstm.paper import PAPER
from fslstm.recipe import RECIPE
from sextet import cli


def main() -> None:
    """Entry point."""
    commands = {"glyphs": cli.recipe_command(RECIPE), "paper": cli.recipe_command(PAPER)}
    sys.exit(cli.main(commands, prog="fslstm", description="Few-shot learning with an LS-SVM base learner."))
