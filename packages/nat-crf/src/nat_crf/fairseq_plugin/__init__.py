"""Our CRF models inside fairseq: give `USER_DIR` to its `--user-dir`.

Models `nat_crf_transformer` with the architectures `nat_crf`, `nat_dcrf` and their `_iwslt` sizes; the criterion
`nat_crf_loss`. fairseq is imported by the plug-in alone, never by this module.
"""

from pathlib import Path

USER_DIR = Path(__file__).parent / "nat_crf_fairseq"
"""A folder of its own: fairseq puts its parent on the module path."""
