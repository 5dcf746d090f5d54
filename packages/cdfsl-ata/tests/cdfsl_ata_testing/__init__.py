"""Helpers of the tests: tiny learners, brute-force formulas, the golden contract."""
