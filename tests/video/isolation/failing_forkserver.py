"""A fork server whose workers fail as failing_worker.py says."""

from __future__ import annotations

from deepscan.video.isolation.forkserver import main
from tests.video.isolation import failing_worker

__all__ = ["failing_worker", "main"]
