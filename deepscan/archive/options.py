"""How an archive is scanned: everything of the command line that changes no single result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepscan.archive.records import Baseline
from deepscan.archive.shard import Shard

WRITE = ("record",)  # sinks of every file, and those that are added where something was found
WRITE_FOUND = ("overlay", "masks", "frames", "html")
REPORTS = ("html", "csv", "jsonl", "sarif", "junit")
MIN_FREE = 512 * 2**20  # bytes that stay free on the disk of the results


@dataclass(frozen=True, slots=True)
class ArchiveOptions:
    """Which files are scanned, by whom, what is written, and when the run stops.

    Attributes:
        write: sinks of every file.
        write_found: sinks that are added for a file that is manipulated or suspicious.
        reports: reports over all files, see `archive.reports`.
        include, exclude, follow_links: as `list_inputs` takes them.
        jobs: files at once for each device; None: 2 on a CPU, 4 on CUDA.
        devices: a model process on each; empty: one, and its engine chooses.
        cluster: the address of a Ray cluster; None: this machine.
        fresh: put an existing journal aside and scan everything again.
        paranoid: hash every file, also where name, size and time are as they were.
        shard: scan this part of the archive only.
        watch: keep running and scan what is added to the folders.
        min_free: bytes of the disk that must stay free.
        baseline: reviewed verdicts, which do not count for the exit code.
        sarif_root: the folder that places in results.sarif are relative to; None: the top of the
            git repository around the working folder, or that folder.
        sarif_category: begins the category of results.sarif, for several uploads of one commit.
        command: the command line, for the journal.
    """

    write: tuple[str, ...] = WRITE
    write_found: tuple[str, ...] = WRITE_FOUND
    reports: tuple[str, ...] = REPORTS
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow_links: bool = False
    jobs: int | None = None
    devices: tuple[str, ...] = ()
    cluster: str | None = None
    fresh: bool = False
    paranoid: bool = False
    shard: Shard | None = None
    watch: bool = False
    min_free: int = MIN_FREE
    baseline: Baseline | None = None
    sarif_root: Path | None = None
    sarif_category: str = ""
    command: tuple[str, ...] = ()
