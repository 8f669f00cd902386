"""Options of an archive scan that do not change the result of any single file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepscan.archive.records import Baseline
from deepscan.archive.shard import Shard

WRITE = ("record",)  # sinks for every file, and those added for findings
WRITE_FOUND = ("overlay", "masks", "frames", "html")
DEFAULT_REPORTS = ("html", "csv", "jsonl", "sarif", "junit")
FILES_CPU, FILES_CUDA = 2, 4  # at once in a model process: one is decoded while another is judged
MIN_FREE = 512 * 2**20  # bytes that stay free on the disk of the results


@dataclass(frozen=True, slots=True)
class ArchiveOptions:
    """Options for the selection of files, the workers, the outputs, and the end of a run.

    Attributes:
        write: sinks of every file.
        write_found: sinks that are added for a file that is manipulated or suspicious.
        reports: reports over all files, see `archive.reports`.
        include, exclude, follow_links: as in `list_inputs`.
        jobs: files at once for each device; None: `FILES_CPU` or `FILES_CUDA`.
        devices: a model process on each; empty: one, and its engine chooses.
        cluster: the address of a Ray cluster; None: this machine.
        fresh: move an existing journal aside and scan everything again.
        paranoid: hash every file, also if name, size and time have not changed.
        shard: scan only this part of the archive.
        watch: keep running and scan files that are added to the folders.
        allow_empty: with nothing to scan write the reports of zero files, unless earlier runs had
            files; else that is an error.
        min_free: bytes of the disk that must stay free.
        baseline: reviewed verdicts, which do not count for the exit code.
        sarif_root: the folder that places in results.sarif are relative to; None: the top of the
            git repository around the working folder, or that folder.
        sarif_category: begins the category of results.sarif, for several uploads of one commit.
        command: the command line, for the journal.
    """

    write: tuple[str, ...] = WRITE
    write_found: tuple[str, ...] = WRITE_FOUND
    reports: tuple[str, ...] = DEFAULT_REPORTS
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
    allow_empty: bool = False
    min_free: int = MIN_FREE
    baseline: Baseline | None = None
    sarif_root: Path | None = None
    sarif_category: str = ""
    command: tuple[str, ...] = ()
