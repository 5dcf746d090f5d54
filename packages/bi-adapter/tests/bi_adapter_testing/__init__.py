"""Helpers of the tests of bi-adapter."""
