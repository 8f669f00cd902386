"""The readers, with the table of those that `--decoder` names.

The contract is `VideoReader` (../contract.py). To add one, write one file with a class of that
shape and add one line to `READERS`; the conformance suite in tests/video/ runs over every reader.
"""

from __future__ import annotations

READERS: dict[str, str] = {
    "pyav": "deepscan.video.readers.pyav:PyAVReader",
    "decord": "deepscan.video.readers.decord:DecordReader",
}
