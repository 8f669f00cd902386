"""An inbox under watch: nothing missed, nothing twice, nothing before it is whole."""

from __future__ import annotations

import os
import threading
import time
from threading import Event

import pytest

from deepscan.archive.journal import read_journal
from deepscan.archive.options import ArchiveOptions
from deepscan.archive.run import scan_archive
from deepscan.archive.watch import ReusedPool, watch
from deepscan.errors import EngineError, UsageError
from deepscan.options import ScanOptions
from tests.archive.fake_pool import FakePool


@pytest.fixture
def inbox(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


class Watched:
    """A watch with real runs and a fake pool, in a thread of its own."""

    def __init__(self, inbox, pool=None, settled=0.15):
        self.out = inbox.parent / "out"
        self.pool = pool or FakePool()
        self.kept = ReusedPool(self.pool)
        self.stop = Event()
        self.batches = []
        self.errors = []
        self._thread = threading.Thread(target=self._work, args=(inbox, settled))

    def _scan(self, inbox, include):
        self.batches.append(include)
        ended = scan_archive(
            [str(inbox)], self.out, options=ScanOptions(), pool=self.kept,
            archive_options=ArchiveOptions(reports=(), write_found=(), min_free=0, include=include),
        )  # fmt: skip
        return not ended.interrupted

    def _work(self, inbox, settled):
        try:
            watch(
                [str(inbox)], self.out, lambda include: self._scan(inbox, include),
                interval=0.03, settled=settled, stop=self.stop,
            )  # fmt: skip
        except Exception as error:
            self.errors.append(error)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self._thread.join(30)
        self.pool.close()
        assert not self._thread.is_alive()
        assert self.errors == []

    def until(self, condition):
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, self.pool.scanned
            time.sleep(0.02)


def test_files_are_scanned_once_as_they_come(inbox):
    (inbox / "first.mp4").write_bytes(b"1")
    names = ["first.mp4"]
    with Watched(inbox) as watched:
        watched.until(lambda: "first.mp4" in watched.pool.scanned)
        for number in range(12):  # dropped while it looks and scans
            name = ["sub/x.mp4", "a[b].mp4", "q*?.mp4", "no\udcff.mp4"][number] if number < 4 else (
                f"late{number}.mp4"
            )  # fmt: skip
            path = inbox / name
            path.parent.mkdir(exist_ok=True)
            part = path.with_name(".part")
            part.write_bytes(b"content %d" % number)
            os.rename(part, path)
            names.append(name)
            time.sleep(0.02)
        watched.until(lambda: len(watched.pool.scanned) >= len(names))
        time.sleep(0.3)  # nothing more may come
    assert sorted(watched.pool.scanned) == sorted(names)
    outcomes = read_journal(watched.out).outcomes
    assert sorted(each.name for each in outcomes) == sorted(names)


def test_a_changed_file_is_scanned_again(inbox):
    path = inbox / "a.mp4"
    path.write_bytes(b"one")
    with Watched(inbox) as watched:
        watched.until(lambda: watched.pool.scanned == ["a.mp4"])
        path.write_bytes(b"fake!")
        watched.until(lambda: watched.pool.scanned == ["a.mp4", "a.mp4"])
    (outcome,) = read_journal(watched.out).outcomes
    assert outcome.label == "manipulated"


def test_a_second_watch_does_nothing_twice(inbox):
    for number in range(3):
        (inbox / f"{number}.mp4").write_bytes(b"%d" % number)
    with Watched(inbox) as first:
        first.until(lambda: len(first.pool.scanned) == 3)
    (inbox / "new.mp4").write_bytes(b"new")
    with Watched(inbox) as second:
        second.until(lambda: "new.mp4" in second.pool.scanned)
    assert second.pool.scanned == ["new.mp4"]


def test_models_are_loaded_once(inbox):
    class Counting(FakePool):
        starts = 0

        def start(self):
            self.starts += 1
            return super().start()

    pool = Counting()
    with Watched(inbox, pool) as watched:
        for number in range(3):
            (inbox / f"{number}.mp4").write_bytes(b"%d" % number)
            watched.until(lambda number=number: len(pool.scanned) == number + 1)
        assert not pool.closed
    assert pool.starts == 1 and len(watched.batches) == 3
    assert pool.closed


def test_a_link_is_told_once_and_no_scan_repeats_for_it(inbox):
    (inbox / "link.mp4").symlink_to("nowhere")
    (inbox / "a.mp4").write_bytes(b"a")
    with Watched(inbox) as watched:
        watched.until(lambda: watched.pool.scanned == ["a.mp4"])
        time.sleep(0.3)
    assert len(watched.batches) == 1
    labels = {each.name: str(each.label) for each in read_journal(watched.out).outcomes}
    assert labels == {"a.mp4": "no-evidence", "link.mp4": "inconclusive"}


def looked_at(inbox, scan_once, ticks, meanwhile=lambda moment: None, **wanted):
    """A watch on a clock that stands still between looks and ends after some of them."""
    stop = Event()
    moments = iter(ticks)

    class Clock:
        now = 0.0

    def wait(_):
        Clock.now = next(moments, None)
        if Clock.now is None:
            stop.set()
            Clock.now = 0.0
        else:
            meanwhile(Clock.now)
        return stop.is_set()

    stop.wait = wait
    return watch(
        [str(inbox)], inbox.parent / "out", scan_once, settled=10.0, stop=stop,
        clock=lambda: Clock.now, **wanted,
    )  # fmt: skip


def test_waits_as_long_as_it_should(inbox):
    (inbox / "a.mp4").write_bytes(b"a")
    batches = []
    taken = looked_at(inbox, lambda include: not batches.append(include), [5.0, 9.0, 10.0, 30.0])
    assert batches == [("./a.mp4",)] and taken == 1


def test_a_growing_file_is_left_alone_until_it_is_whole(inbox):
    big = inbox / "big.mp4"
    big.write_bytes(b"0")
    scanned = []

    def grow(moment):
        if moment <= 100.0:
            with big.open("ab") as file:
                file.write(b"%f" % moment)
        elif moment == 103.0:  # another file of the same size and time, moved to its place
            other = inbox / ".part"
            other.write_bytes(big.read_bytes())
            facts = big.stat()
            os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            os.rename(other, big)

    moments = [float(moment) for moment in range(3, 130, 2)]
    looked_at(inbox, lambda include: not scanned.append(big.stat().st_ino), moments, meanwhile=grow)
    assert scanned == [big.stat().st_ino]


def test_an_end_in_mid_scan_ends_the_watch(inbox):
    (inbox / "a.mp4").write_bytes(b"a")
    assert looked_at(inbox, lambda include: False, [20.0, 40.0, 60.0]) == 1


def test_many_files_are_scanned_in_batches(inbox):
    for number in range(300):
        (inbox / f"{number:03d}.mp4").touch()
    batches = []
    looked_at(inbox, lambda include: not batches.append(include), [20.0, 40.0])
    assert [len(batch) for batch in batches] == [256, 44]
    assert len({name for batch in batches for name in batch}) == 300


def test_files_that_are_gone_before_their_scan_do_no_harm(inbox):
    (inbox / "a.mp4").write_bytes(b"a")

    def scan_once(include):
        (inbox / "a.mp4").unlink()
        raise UsageError("nothing to scan")

    assert looked_at(inbox, scan_once, [20.0, 40.0]) == 1


def test_errors_of_a_scan_end_the_watch(inbox):
    (inbox / "a.mp4").write_bytes(b"a")

    def scan_once(include):
        raise EngineError("no engine")

    with pytest.raises(EngineError):
        looked_at(inbox, scan_once, [20.0])


def test_a_folder_that_is_away_for_a_while_is_waited_for(inbox, caplog):
    batches = []
    away = inbox.with_name("away")

    def scan_once(include):
        batches.append(include)
        return True

    moments = []

    def clock():
        moments.append(None)
        if len(moments) == 2:
            os.rename(inbox, away)
        if len(moments) == 12:
            os.rename(away, inbox)
        return float(len(moments))

    stop = Event()
    (inbox / "a.mp4").write_bytes(b"a")

    def wait(_):
        if len(moments) > 60:
            stop.set()
        return stop.is_set()

    stop.wait = wait
    watch([str(inbox)], inbox.parent / "out", scan_once, settled=5.0, stop=stop, clock=clock)
    assert batches == [("./a.mp4",)]


def test_refuses_what_is_no_folder(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        watch([str(tmp_path / "nowhere")], tmp_path / "out", lambda include: True)


def test_two_inboxes_with_the_same_names(tmp_path):
    for name in ("cam1", "cam2"):
        (tmp_path / name / "day").mkdir(parents=True)
        (tmp_path / name / "day" / "a.mp4").write_bytes(name.encode())
    stop = Event()
    scanned = []

    def scan_once(include):
        pool = FakePool()
        scan_archive(
            [str(tmp_path / "cam1"), str(tmp_path / "cam2")], tmp_path / "out",
            options=ScanOptions(), pool=pool,
            archive_options=ArchiveOptions(reports=(), write_found=(), min_free=0, include=include),
        )  # fmt: skip
        scanned.extend(pool.scanned)
        stop.set()
        return True

    watch([str(tmp_path / "cam1"), str(tmp_path / "cam2")], tmp_path / "out", scan_once,
          settled=0.0, interval=0.01, stop=stop)  # fmt: skip
    assert sorted(scanned) == ["cam1/day/a.mp4", "cam2/day/a.mp4"]
