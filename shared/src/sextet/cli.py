"""Command lines made from functions and frozen dataclasses, with one set of exit codes for every program here.

0 done, 1 a check failed or a loss was not finite, 2 bad input, 3 data missing, 4 the system refused (disk full, no
permission, no network), 128 + n stopped by signal n.
"""

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sextet.errors import Interrupted, NonFiniteLoss
from sextet.recipe import Recipe, RunContext

CHECK_FAILED, BAD_INPUT, DATA_MISSING, SYSTEM_REFUSED = 1, 2, 3, 4


@dataclass(frozen=True)
class Deferred:
    """A command whose module is imported when it is the one asked for, so that the program's own help comes at once.

    Attributes:
        where: `module:name` of a function or of a `Recipe`.
        help: one line for the program's help; the command's own comes from its docstring.
    """

    where: str
    help: str

    def load(self) -> Callable[..., Any]:
        """The command itself."""
        module, _, name = self.where.partition(":")
        found = getattr(importlib.import_module(module), name)
        return recipe_command(found) if isinstance(found, Recipe) else found

    def placeholder(self) -> Callable[[], None]:
        """What stands for it while another command is asked for."""

        def command() -> None:
            raise AssertionError("a placeholder is never called")

        command.__doc__ = self.help
        return command


def main(
    commands: Mapping[str, Callable[..., Any] | Deferred],
    *,
    prog: str,
    description: str,
    args: Sequence[str] | None = None,
) -> int:
    """Run one of `commands` by the words of the command line; its integer result, if any, is the exit code.

    Errors that a person can mend (ValueError, OSError, NonFiniteLoss) are printed without a traceback; with
    SEXTET_TRACEBACK=1 it is shown.
    """
    words = sys.argv[1:] if args is None else args
    try:
        ready = {name: _resolve(command, asked=[name] == list(words[:1])) for name, command in commands.items()}
        result = tyro.extras.subcommand_cli_from_dict(ready, prog=prog, description=description, args=words)
        return result if type(result) is int else 0
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, OSError, NonFiniteLoss) as error:
        if os.environ.get("SEXTET_TRACEBACK"):
            raise
        print("\n".join([f"{prog}: {error}", *getattr(error, "__notes__", ())]), file=sys.stderr)
        from sextet.data import DataMissing

        codes = {NonFiniteLoss: CHECK_FAILED, DataMissing: DATA_MISSING, OSError: SYSTEM_REFUSED}
        return next((code for kind, code in codes.items() if isinstance(error, kind)), BAD_INPUT)
    except Interrupted as stop:
        print(f"{prog}: {stop}", file=sys.stderr)
        return 128 + stop.signum


def _resolve(command: Callable[..., Any] | Deferred, *, asked: bool) -> Callable[..., Any]:
    if not isinstance(command, Deferred):
        return command
    return command.load() if asked else command.placeholder()


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
