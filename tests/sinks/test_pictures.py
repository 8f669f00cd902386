"""Pictures that are kept while frames pass: the strongest, few of them, as good as any."""

from __future__ import annotations

import re
from dataclasses import replace

from deepscan.sinks import pictures
from deepscan.sinks.html import HtmlSink
from deepscan.sinks.pictures import Pictures
from tests.sinks import build


def kept(scan, frames):
    held = Pictures()
    for result in build.results(scan, frames=frames):
        held.add(result)
    return held


def without_picture(result):
    frame = replace(result.frame, image=result.frame.image[:0, :0])
    return replace(result, frame=frame)


def page(path, scan, results, *given):
    sink = HtmlSink(path, scan, *given)
    for result in results:
        sink.write(result)
    sink.close()
    return path.read_text()


def test_a_page_shows_the_same_faces_and_as_strong_frames_without_reading_again(tmp_path):
    scan = build.scan(frames=50)
    results = list(build.results(scan, frames=50))
    again = page(tmp_path / "again.html", scan, results)
    once = page(tmp_path / "once.html", scan, map(without_picture, results), kept(scan, 50))
    assert len(shown(once)) >= len(shown(again)) >= 5
    portraits = len(scan.verdict.tracks)
    assert set(shown(again)[:portraits]) <= set(shown(once))
    assert strengths(once)[0] == strengths(again)[0]


def shown(page):
    return re.findall(r"data:image/jpeg;base64,[^\"]+", page)


def strengths(page):
    return re.findall(r"frame \d+: score ([\d.]+)", page)


def test_each_stretch_keeps_its_strongest_frame(monkeypatch):
    scan = build.scan(frames=50, faces=1, unjudged=0)
    held = list(kept(scan, 50).frames())
    assert len(held) == 8 and [each.index for each in held] == sorted(each.index for each in held)
    for result in build.results(scan, frames=50):
        for face in result.faces:
            place = int(result.frame.time / pictures.STRETCH)
            (best,) = [each for each in held if int(each.time / pictures.STRETCH) == place]
            assert best.score >= face.score


def test_pictures_stay_few_however_long_the_video_and_however_many_the_faces(monkeypatch):
    monkeypatch.setattr(pictures, "MOST", 5)
    monkeypatch.setattr(pictures, "FACES", 3)
    long = kept(build.scan(frames=200, faces=1, unjudged=0), 200)
    assert 3 <= len(list(long.frames())) <= 5
    scan = build.scan(frames=20, faces=8, unjudged=2)
    crowd = kept(scan, 20)
    assert len(list(crowd.frames())) == 5
    faces = [track for track in range(10) if crowd.portraits.of(track) is not None]
    assert len(faces) == 3
