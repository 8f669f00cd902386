"""How a run is asked to end: by Ctrl-C, by a signal, or by the program that it is part of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Ends a run: `stop` begins no further file, a second `stop` or `abort` leaves at once.

    Signal handlers call it, so it may interrupt the run anywhere but inside `deferred`: half a line
    of the journal, followed by others, would be damage.
    """

    def __init__(self) -> None:
        self.requested = False
        self.graceful = False  # set while files are in flight that are worth waiting for
        self._aborted = False
        self._deferrals = 0

    def stop(self) -> None:
        """Ask the run to end.

        Raises:
            KeyboardInterrupt: it was asked before, or there is nothing to wait for.
        """
        if self.requested or not self.graceful:
            self.abort()
        self.requested = True

    def abort(self) -> None:
        """End the run now, or as soon as the outermost `deferred` block is left.

        Raises:
            KeyboardInterrupt: as it is meant.
        """
        self._aborted = True
        self._raise_if_due()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Finish the block first; an abort that came meanwhile is raised after it."""
        self._deferrals += 1
        try:
            yield
        finally:
            self._deferrals -= 1
        self._raise_if_due()

    def _raise_if_due(self) -> None:
        if self._aborted and not self._deferrals:
            self._aborted = False
            raise KeyboardInterrupt
