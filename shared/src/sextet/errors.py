"""How a run may end before its end. What data can be wrong about stands in `sextet.data.errors`."""

from __future__ import annotations

import signal
from pathlib import Path


class Interrupted(SystemExit):
    """SIGTERM or SIGINT arrived; the step was finished and saved. Leaves with the shell's code, 128 + signal."""

    def __init__(self, signum: int, where: Path) -> None:
        super().__init__(128 + signum)
        self.signum = signum
        self.where = where

    def __str__(self) -> str:
        return f"{signal.Signals(self.signum).name}: state saved in {self.where}; the same command continues from there"


class NonFiniteLoss(ArithmeticError):
    """A logged value became NaN or infinite, or the state NaN; the last checkpoint from before is untouched."""
