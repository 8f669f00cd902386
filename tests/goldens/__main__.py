"""Write the goldens anew: `python -m tests.goldens`. See `tests/goldens/__init__.py` for when."""

from __future__ import annotations

import tempfile
from pathlib import Path

import deepscan
from tests import goldens


def main() -> None:
    """Write every golden but those that are written by hand."""
    goldens.write("options.json", goldens.options())
    goldens.write("public.json", list(deepscan.__all__))
    goldens.write("settings_hash.json", goldens.settings_hash())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        goldens.make_files(folder)
        goldens.write("records.json", goldens.records(folder))
        goldens.write("journal.json", goldens.journal(folder))


if __name__ == "__main__":
    main()
