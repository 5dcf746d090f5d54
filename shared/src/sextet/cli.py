"""Command lines made from functions and frozen dataclasses, with one set of exit codes for every program here.

0 done, 1 a check failed or a loss was not finite, 2 bad input, 3 data missing, 4 the system refused (disk full, no
permission, no network), 128 + n stopped by signal n.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from sextet.recipe import Recipe, RunContext

CHECK_FAILED, BAD_INPUT, DATA_MISSING, SYSTEM_REFUSED = 1, 2, 3, 4


def main(
    commands: Mapping[str, Callable[..., Any]], *, prog: str, description: str, args: Sequence[str] | None = None
) -> int:
    """Run one of `commands` by the words of the command line; its integer result, if any, is the exit code.

    Errors that a person can mend (ValueError, OSError, NonFiniteLoss) are printed without a traceback; with
    SEXTET_TRACEBACK=1 it is shown.
    """
    from sextet.data import DataMissing
    from sextet.training import Interrupted, NonFiniteLoss

    try:
        result = tyro.extras.subcommand_cli_from_dict(dict(commands), prog=prog, description=description, args=args)
        return result if type(result) is int else 0
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, OSError, NonFiniteLoss) as error:
        if os.environ.get("SEXTET_TRACEBACK"):
            raise
        print(f"{prog}: {error}", file=sys.stderr)
        codes = {NonFiniteLoss: CHECK_FAILED, DataMissing: DATA_MISSING, OSError: SYSTEM_REFUSED}
        return next((code for kind, code in codes.items() if isinstance(error, kind)), BAD_INPUT)
    except Interrupted as stop:
        print(f"{prog}: {stop}", file=sys.stderr)
        return 128 + stop.signum


def recipe_command(recipe: Recipe) -> Callable[..., None]:
    """A command that runs a recipe: its config's fields become options; prints each metric's mean and error as JSON."""

    def command(
        config: Annotated[recipe.config, tyro.conf.arg(name="")],  # pyright: ignore[reportInvalidTypeForm]
        folder: Annotated[Path, tyro.conf.arg(help="where the run keeps its state; the same folder continues it")],
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        context = RunContext(directory=folder, stages=folder / "stages", seed=seed, device=device)
        metrics = recipe.run(config, context)
        summary = {
            name: {"mean": scores.mean, "standard_error": scores.standard_error, "n": len(scores.values)}
            for name, scores in metrics.items()
        }
        print(json.dumps(summary, indent=1))

    command.__doc__ = recipe.describe
    return command
