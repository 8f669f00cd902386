"""The readers, with the table of those that `--decoder` names.

The contract is `VideoReader` (../contract.py). To add one, write one file with a class of that
shape, add one line to `READERS` and the name to `Decoder` (options.py), and say in choose.py which
files "auto" gives to it; the suite in tests/video/ runs over every reader. For a picture format see
../formats.py.
"""

from __future__ import annotations

READERS: dict[str, str] = {
    "pyav": "deepscan.video.readers.pyav:PyAVReader",
    "decord": "deepscan.video.readers.decord:DecordReader",
}
