"""`deepscan` and `python -m deepscan`."""

from __future__ import annotations


def main() -> None:
    """Run the command line; imports wait until it is known what is wanted."""
    from deepscan.cli import run

    run()


if __name__ == "__main__":
    main()
