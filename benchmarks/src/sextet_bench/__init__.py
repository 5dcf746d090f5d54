"""The bench: table files in, recipes run, result records and verdicts out. Packages know nothing of it."""

__version__ = "0.1.0"
