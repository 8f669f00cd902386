"""`deepscan` and `python -m deepscan`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; imports wait until it is known what is wanted."""
    try:
        from deepscan.cli.scan import run
    except Exception as error:  # Python would exit with 1, which says "manipulated"
        broken = f"{type(error).__name__}: {error}"
        print(f"deepscan: the installation is broken ({broken}): install it again", file=sys.stderr)
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
