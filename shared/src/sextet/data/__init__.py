"""Datasets: passports, verified downloads, safe extraction, packed arrays."""

from sextet.data.archives import extract
from sextet.data.cifar import CIFAR10, CIFAR100
from sextet.data.digits import DIGITS
from sextet.data.download import AllOf, Url
from sextet.data.errors import ChecksumMismatch, DataError, DataMissing, SourceUnavailable, UnsafeArchive
from sextet.data.glyphs import GLYPHS
from sextet.data.images import Images, to_float
from sextet.data.legacy_pickle import load_legacy_pickle
from sextet.data.mnist import FASHION_MNIST, MNIST
from sextet.data.packages import DebianPackage, NpmPackage, PythonPackage
from sextet.data.passport import Arrays, Passport, Source, content_hash, data_root
from sextet.data.store import adopt, fetch, inspect, load, recorded_hash, state, verify

OPEN: dict[str, Passport] = {passport.name: passport for passport in (DIGITS, MNIST, FASHION_MNIST, CIFAR10, GLYPHS)}
"""The datasets that need no manual step."""

__all__ = [
    "CIFAR10", "CIFAR100", "DIGITS", "FASHION_MNIST", "GLYPHS", "MNIST", "OPEN",
    "AllOf", "Arrays", "ChecksumMismatch", "DataError", "DataMissing", "DebianPackage", "Images", "NpmPackage",
    "Passport", "PythonPackage", "Source", "SourceUnavailable", "UnsafeArchive", "Url",
    "adopt", "content_hash", "data_root", "extract", "fetch", "inspect", "load", "load_legacy_pickle",
    "recorded_hash", "state", "to_float", "verify",
]  # fmt: skip
