"""The thin shared layer of the sextet reproduction suite."""

__version__ = "0.1.0"
