"""Helpers of the tests: strict golden-vector checks and brute-force implementations."""
