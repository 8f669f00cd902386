"""Requests to stop a run: by Ctrl-C, by a signal, or from the calling program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Ends a run: after `stop` no file is started; a second `stop` or `abort` ends it at once.

    Signal handlers call it, so it may interrupt the run anywhere except inside `deferred`: half a
    line of the journal followed by others would be damage.
    """

    def __init__(self) -> None:
        self.requested = False
        self.graceful = False  # True while files are in flight that a stop should wait for
        self._aborted = False
        self._deferrals = 0

    def stop(self) -> None:
        """Request the end of the run.

        Raises:
            KeyboardInterrupt: it was requested before, or there is nothing to wait for.
        """
        if self.requested or not self.graceful:
            self.abort()
        self.requested = True

    def abort(self) -> None:
        """End the run now, or at the end of the outermost `deferred` block.

        Raises:
            KeyboardInterrupt: always, to end the run.
        """
        self._aborted = True
        self._raise_if_due()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Complete the block first; an abort during it is raised at its end."""
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
