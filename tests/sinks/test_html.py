"""The page: it says what the verdict says, stays small, is safe to open and fits a phone."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pictures

from deepscan import wording
from deepscan.errors import OutputError
from deepscan.sinks.html import TRACKS, HtmlSink
from deepscan.sinks.key_frames import SIDE, STRONGEST, marked, thumbnail
from deepscan.sinks.record import RecordSink, name_bytes
from deepscan.sinks.score_chart import BINS, ScoreLine
from deepscan.types import (
    Box,
    Frame,
    FrameResult,
    Interval,
    Label,
    Measured,
    Output,
    Reason,
    Scan,
)
from tests.browser import Browser, luminance, pale
from tests.media import make_video
from tests.sinks import build

OUTPUTS = (
    Output("overlay", Path("out/clip.overlay.mp4"), "a" * 64, 12_345),
    Output("masks", Path("out/clip.masks.mkv"), "b" * 64, 678),
)
VOID = {"meta", "img", "br", "link", "input", "hr"}


@dataclass
class Seen:
    """What a page is made of."""

    tags: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    policy: str = ""
    scripts: list[str] = field(default_factory=list)
    headings: list[int] = field(default_factory=list)
    text: str = ""


class Reader(HTMLParser):
    """Parses a page and refuses tags that do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Seen()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.seen.tags.append((tag, tuple(name for name, _ in attrs)))
        if re.fullmatch("h[1-6]", tag):
            self.seen.headings.append(int(tag[1]))
        for name in ("href", "src", "xlink:href", "action", "data", "poster", "srcset"):
            value = values.get(name)
            if value is not None:
                (self.seen.pictures if tag == "img" else self.seen.links).append(value)
        if values.get("http-equiv") == "Content-Security-Policy":
            self.seen.policy = values["content"] or ""
        if tag == "img":
            assert values["alt"], "a picture without words"
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.seen.scripts.append(data)
        elif self._open and self._open[-1] != "style":
            self.seen.text += data


def parsed(page: str) -> Seen:
    reader = Reader()
    reader.feed(page)
    reader.close()
    reader.seen.text = " ".join(reader.seen.text.split())
    return reader.seen


def page_of(path: Path, scan: Scan, *, frames: int = 25, made: tuple[Output, ...] = ()) -> str:
    sink = HtmlSink(path, scan)
    for result in build.results(scan, frames=frames):
        sink.write(result)
    sink.close(made)
    return path.read_text(encoding="utf-8")


def scan_of(label: Label = Label.MANIPULATED, faces: int = 2, unjudged: int = 1) -> Scan:
    if label in (Label.ERROR, Label.NOT_APPLICABLE):
        faces = unjudged = 0
    return build.scan(info=build.video(), label=label, faces=faces, unjudged=unjudged)


@pytest.mark.parametrize("label", list(Label))
def test_page_says_verdict_meaning_and_limits(label: Label, tmp_path: Path) -> None:
    scan = scan_of(label)
    text = parsed(page_of(tmp_path / "p.html", scan)).text
    words = wording.wording_of(scan.verdict)
    for part in (
        words.label,
        words.headline,
        words.means,
        words.does_not_mean,
        *words.sentences,
        scan.verdict.reasons[0].text,
        scan.verdict.reasons[0].code,
        scan.sha256,
        scan.verdict.model.sha256,
        scan.verdict.model.evaluated_on,
        scan.verdict.calibration.population,
        scan.verdict.engine.name,
        scan.report.decoder,
    ):
        assert part in text


def test_a_note_that_is_a_reason_too_stands_on_the_page_once(tmp_path: Path) -> None:
    scan = scan_of()
    told, other = "picture stream 2 was judged too: manipulated", "picture stream 3 was judged too"
    verdict = replace(scan.verdict, reasons=(Reason("other_stream", told),))
    text = page_of(tmp_path / "r.html", replace(scan, verdict=verdict, ignored=(told, other)))
    assert (text.count(told), text.count(other)) == (1, 1)


def test_page_shows_the_evidence_about_the_model(tmp_path: Path) -> None:
    made = build.scan()
    known = (Measured("video AUC", "made <clips>", 0.912, (0.88, 0.93)),)
    model = replace(made.verdict.model, evidence=known)
    sink = HtmlSink(tmp_path / "r.html", replace(made, verdict=replace(made.verdict, model=model)))
    sink.close()
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "Evidence about the model" in page and "video AUC" in page
    assert "0.912 [95 % interval 0.880 to 0.930] on made &lt;clips&gt;" in page
    plain = HtmlSink(tmp_path / "p.html", made)
    plain.close()
    assert "Evidence about the model" not in (tmp_path / "p.html").read_text("utf-8")


def test_page_shows_the_digest_of_the_record(tmp_path: Path) -> None:
    scan = scan_of()
    page = page_of(tmp_path / "p.html", scan, made=OUTPUTS)
    sink = RecordSink(tmp_path / "r.json", scan)
    for result in build.results(scan):
        sink.write(result)
    sink.close()
    assert json.loads((tmp_path / "r.json").read_text())["digest"] in page


def test_headings_nest_without_gaps(tmp_path: Path) -> None:
    levels = parsed(page_of(tmp_path / "p.html", scan_of(), made=OUTPUTS)).headings
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_picture_is_a_jpeg_in_the_page(tmp_path: Path) -> None:
    seen = parsed(page_of(tmp_path / "p.html", scan_of()))
    assert seen.pictures
    for source in seen.pictures:
        kind, _, data = source.partition(",")
        assert kind == "data:image/jpeg;base64"
        picture = Pictures.open(io.BytesIO(base64.b64decode(data)))
        assert max(picture.size) <= SIDE and not picture.getexif()


def test_outputs_are_linked_relatively_with_their_hashes(tmp_path: Path) -> None:
    odd = Output("masks", Path("out/a b#?%:é.mkv"), "c" * 64, 1)
    seen = parsed(page_of(tmp_path / "p.html", scan_of(), made=(*OUTPUTS, odd)))
    player, *links = seen.links
    assert player == "./clip.overlay.mp4"
    assert links[:2] == ["./clip.overlay.mp4", "./clip.masks.mkv"]
    assert links[2] == "./a%20b%23%3F%25%3A%C3%A9.mkv"
    assert all(output.sha256 in seen.text for output in OUTPUTS)


# Safety

HOSTILE = st.one_of(
    st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=60),
    st.binary(min_size=1, max_size=40)
    .filter(lambda raw: b"/" not in raw and b"\0" not in raw)
    .map(os.fsdecode),
    st.sampled_from(
        [
            "<img src=x onerror=alert(1)>",
            "\"onclick='alert(1)'",
            "javascript:alert(1)",
            "--><script>alert(1)<!--",
            "'><style>*{background:url(http:\\\\x)}",
            "{{ 7 * 7 }}{% raw %}",
            "]]><svg onload=alert(1)>",
            "&lt;script&gt;&#x3c;script&#62;",
            "http:evil.example",
            "\u202efdp.exe\u2066",
            "\ud800",
        ]
    ),
)


def hostile_scan(name: str) -> Scan:
    scan = scan_of(Label.INCONCLUSIVE)
    verdict, report = scan.verdict, scan.report
    video = verdict.video
    assert video is not None
    track = replace(verdict.tracks[2], unscored=((name, 3),))
    return replace(
        scan,
        path=Path("folder") / name,
        verdict=replace(
            verdict,
            tracks=(*verdict.tracks[:2], track),
            coverage=replace(verdict.coverage, faces_unscored=((name, 3),)),
            reasons=(Reason(name, name),),
            engine=replace(verdict.engine, reason=name),
            video=replace(video, codec=name, container=name, audio=(name,)),
        ),
        report=replace(report, complete=False, reasons=(name,), decoder_reason=name),
        settings=((name, name),),
        versions=((name, name),),
        ignored=(name,),
    )


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=HOSTILE)
def test_nothing_from_the_input_becomes_markup(name: str, tmp_path: Path) -> None:
    def made(text: str) -> Seen:
        path = tmp_path / "p.html"
        output = Output("overlay", Path("out") / text, "c" * 64, 1)
        HtmlSink(path, hostile_scan(text)).close((output,))
        return parsed(path.read_text(encoding="utf-8"))

    plain, hostile = made("plain"), made(name)
    assert hostile.tags == plain.tags
    assert hostile.scripts == plain.scripts and len(plain.scripts) == 1
    assert hostile.policy == plain.policy
    assert not any(attr.startswith("on") for _, attrs in hostile.tags for attr in attrs)
    player, link = hostile.links
    assert player == link
    assert re.fullmatch(r"\./[A-Za-z0-9_.~%-]*", link)
    assert unquote_to_bytes(link[2:]) == name_bytes(Path("out", name).name)


def test_policy_forbids_everything_but_styles_and_data_pictures(tmp_path: Path) -> None:
    page = page_of(tmp_path / "p.html", scan_of())
    seen = parsed(page)
    assert seen.policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "//" not in re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", page)
    assert "@import" not in page and set(re.findall(r"url\((.)", page)) == {"#"}
    assert "script" not in seen.policy and not seen.scripts


def test_policy_lets_one_script_run_and_the_video_beside_the_page_play(tmp_path: Path) -> None:
    page = page_of(tmp_path / "p.html", scan_of(), made=OUTPUTS)
    seen = parsed(page)
    (script,) = seen.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert seen.policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; media-src 'self' file:;"
        f" script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert "//" not in re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", page)
    other = page_of(tmp_path / "q.html", scan_of(Label.INCONCLUSIVE, 5), made=OUTPUTS)
    assert parsed(other).scripts == [script]  # nothing of the input is in it


def test_a_still_picture_has_nothing_to_play(tmp_path: Path) -> None:
    scan = build.scan(info=build.video(still=True, frames=1), faces=1, unjudged=0, frames=1)
    page = page_of(tmp_path / "p.html", scan, frames=1, made=OUTPUTS)
    assert "<video" not in page and not parsed(page).scripts


# Bounds


def long_scan(seconds: float, tracks: int = 1) -> Scan:
    scan = build.scan(info=build.video(), faces=tracks, unjudged=0, label=Label.NO_EVIDENCE)
    frames = round(seconds * 25)
    verdict = replace(
        scan.verdict,
        tracks=tuple(
            build.track(each, score=0.1 + 0.8 * each / tracks, end=seconds)
            for each in range(tracks)
        ),
        coverage=replace(scan.verdict.coverage, decoded=frames, seconds=seconds),
    )
    return replace(scan, verdict=verdict)


def test_score_line_is_bounded_and_keeps_its_peak() -> None:
    scan = long_scan(7_200)
    track, coverage = scan.verdict.tracks[0], scan.verdict.coverage
    line = ScoreLine(track, 7_200, coverage)
    for index in range(0, 180_000, 2):
        line.add(index / 25, 0.987 if index == 90_002 else 0.1)
    (points,) = line.chart((), scan.verdict).lines
    places = [tuple(map(float, point.split(","))) for point in points.split()]
    assert len(places) <= BINS
    assert min(y for _, y in places) == pytest.approx(1.3, abs=0.06)
    assert "0.99 at 1:00:00.1" in line.chart((), scan.verdict).summary


def test_gaps_are_shown_as_not_judged() -> None:
    scan = long_scan(20)
    line = ScoreLine(scan.verdict.tracks[0], 20, scan.verdict.coverage)
    for index in range(500):
        time = index / 25
        if 5 <= time < 8:
            line.add(time, None)  # seen, but too small
        elif not 12 <= time < 15:  # nobody looked
            line.add(time, 0.4)
    chart = line.chart((), scan.verdict)
    assert len(chart.lines) == 3
    blind = [(band.x, band.x + band.width) for band in chart.bands if band.kind == "blind"]
    assert blind == [
        (pytest.approx(25, abs=0.5), pytest.approx(40, abs=0.5)),
        (pytest.approx(60, abs=0.5), pytest.approx(75, abs=0.5)),
    ]


def test_stride_is_no_gap() -> None:
    scan = long_scan(100)
    line = ScoreLine(scan.verdict.tracks[0], 100, scan.verdict.coverage)
    for second in range(0, 100, 2):
        line.add(second, 0.4)
    chart = line.chart((), scan.verdict)
    assert len(chart.lines) == 1 and not chart.bands


def test_short_face_in_a_long_film_gets_its_own_scale() -> None:
    scan = long_scan(3_600)
    track = replace(scan.verdict.tracks[0], start=1_800.0, end=1_803.0)
    line = ScoreLine(track, 3_600, scan.verdict.coverage)
    line.add(1_801.0, 0.5)
    chart = line.chart((), scan.verdict)
    assert chart.locator is not None and chart.locator.x == pytest.approx(50, abs=0.1)
    assert chart.ticks[0][1].startswith("29:59")


def test_page_of_a_long_crowded_video_stays_small(tmp_path: Path) -> None:
    scan = long_scan(40, tracks=40)
    image = build.picture(120, 160)
    sink = HtmlSink(tmp_path / "p.html", scan)
    for index in range(0, 1_000, 20):
        faces = tuple(
            build.prediction(image, Box(10, 10, 50, 60), track, 0.5 + index / 2_500, 8)
            for track in range(40)
        )
        sink.write(FrameResult(Frame(index, index * 512, index / 25, image), faces))
    sink.close()
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert len(page) < 2_000_000
    assert page.count("<article") == TRACKS
    assert f"{40 - TRACKS} more faces" in page
    assert page.count("<figure>") == STRONGEST


def test_strongest_frames_are_spread_over_the_intervals(tmp_path: Path) -> None:
    scan = long_scan(10)
    intervals = (
        Interval(1, 3, 0, 0.97, 5.0, Label.MANIPULATED),
        Interval(6, 8, 0, 0.75, 1.0, Label.SUSPICIOUS),
    )
    verdict = replace(scan.verdict, intervals=intervals, label=Label.MANIPULATED)
    image = build.picture(120, 160)
    sink = HtmlSink(tmp_path / "p.html", replace(scan, verdict=verdict))
    for index in range(250):
        time = index / 25
        score = 0.96 if 1 <= time < 3 else 0.74 if 6 <= time < 8 else 0.2
        face = build.prediction(image, Box(10, 10, 50, 60), 0, score, 8)
        sink.write(FrameResult(Frame(index, index * 512, time, image), (face,)))
    sink.close()
    text = parsed((tmp_path / "p.html").read_text(encoding="utf-8")).text
    assert text.count("score 0.96") == 3 and text.count("score 0.74") == 3
    assert "score 0.20" not in text


def test_still_picture_has_its_strongest_frame(tmp_path: Path) -> None:
    still = Interval(0, 0, 0, 0.97, 5.0, Label.MANIPULATED)
    scan = build.scan(info=build.video(still=True, frames=1), faces=1, unjudged=0, frames=1)
    scan = replace(scan, verdict=replace(scan.verdict, intervals=(still,)))
    assert page_of(tmp_path / "p.html", scan, frames=1).count("<figure>") == 1


def test_frames_without_pictures_do_not_end_the_page(tmp_path: Path) -> None:
    scan = scan_of()
    sink = HtmlSink(tmp_path / "p.html", scan)
    for result in build.results(scan, images=False):
        sink.write(result)
    sink.close()
    assert "no picture" in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_a_folder_that_is_gone_says_where(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="page cannot be written"):
        HtmlSink(tmp_path / "gone" / "p.html", scan_of()).close()


# Pictures


def test_thumbnail_is_the_box_and_grey_outside_the_frame() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :, 0] = 200
    cut = thumbnail(image, Box(-20, 0, 20, 40), 64)
    assert cut.shape == (64, 64, 3)
    assert (cut[:, :31] == 118).all()
    assert (cut[:, 33:, 0] == 200).all() and (cut[:, 33:, 1] == 0).all()
    assert (thumbnail(image, Box(500, 500, 520, 520), 16) == 118).all()


@settings(max_examples=80, deadline=None)
@given(
    x=st.floats(-300, 300), y=st.floats(-300, 300), side=st.floats(0.1, 900), out=st.integers(1, 70)
)
def test_thumbnail_of_any_box_has_its_size(x: float, y: float, side: float, out: int) -> None:
    image = np.full((50, 80, 3), 7, np.uint8)
    cut = thumbnail(image, Box(x, y, x + side, y + side), out)
    assert cut.shape == (out, out, 3) and cut.dtype == np.uint8


def test_mask_colours_only_what_it_marks() -> None:
    picture = np.full((64, 64, 3), 128, np.uint8)
    mask = np.zeros((64, 64), np.float32)
    assert (marked(picture, mask) == 128).all()
    mask[20:44, 20:44] = 1
    shown = marked(picture, mask)
    assert (shown[:16] == 128).all()
    red, _, blue = shown[32, 32]
    assert int(red) > int(blue) + 50  # orange heat inside
    assert (shown[20, 32] == 255).all()  # the contour, light ...
    assert (shown[18, 32] < 40).all()  # ... beside dark


# In a browser


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1_280])
@pytest.mark.parametrize(
    ("label", "faces"),
    [
        (Label.MANIPULATED, 1),
        (Label.MANIPULATED, 8),
        (Label.NO_EVIDENCE, 2),
        (Label.INCONCLUSIVE, 1),
        (Label.ERROR, 0),
    ],
)
def test_browser_shows_the_page(
    browser: Browser, tmp_path: Path, label: Label, faces: int, width: int
) -> None:
    name = "a-very-long-name-without-any-place-to-break-" * 4 + "<b>.mp4"
    scan = replace(scan_of(label, faces), path=Path(name))
    if faces == 8:  # the widest table: stretches in the third hour
        verdict = scan.verdict
        late = (replace(each, start=each.start + 9e3, end=each.end + 9e3) for each in
                verdict.intervals)  # fmt: skip
        scan = replace(scan, verdict=replace(verdict, intervals=tuple(late)))
    page_of(tmp_path / "p.html", scan, made=OUTPUTS)
    browser.open(tmp_path / "p.html", width)

    heading = browser.evaluate("document.querySelector('h1').innerText")
    assert heading == wording.phrase(f"headline.{label}")
    room = browser.evaluate("document.documentElement.clientWidth")
    assert width - 20 < room <= width  # a scroll bar may take some
    assert browser.evaluate("document.documentElement.scrollWidth") == room
    outside = browser.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('svg') &&"
        " (e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5 ||"
        " e.getBoundingClientRect().left < -0.5)).map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []
    assert browser.evaluate("[...document.images].filter(i => !i.naturalWidth).length") == 0
    assert browser.evaluate("document.images.length") >= (2 if faces else 0)
    assert browser.complaints() == ["net::ERR_FILE_NOT_FOUND"]  # the verdict video is not there
    assert browser.evaluate("document.getElementById('player').hidden") is True
    assert browser.evaluate("document.querySelectorAll('button').length") == 1  # in the player
    assert browser.requests() == []
    shot = base64.b64decode(browser.ask("Page.captureScreenshot", format="png")["data"])
    assert Pictures.open(io.BytesIO(shot)).size == (width, 900)


@pytest.fixture
def played(browser: Browser, tmp_path: Path) -> Browser:
    """A page of two faces open beside its verdict video of a second."""
    make_video(tmp_path / "clip.overlay.mp4", frames=25, rate=25, size=(160, 120))
    scan = scan_of(faces=2, unjudged=0)
    page_of(tmp_path / "p.html", scan, made=OUTPUTS)
    browser.open(tmp_path / "p.html", 1_280)
    browser.wait_for("!document.getElementById('player').hidden")
    return browser


NOW = "document.getElementById('video').currentTime"


@pytest.mark.browser
def test_browser_plays_the_verdict_video_and_a_click_jumps(played: Browser) -> None:
    assert played.complaints() == []
    assert abs(played.evaluate("document.getElementById('video').duration") - 1) < 0.1
    assert played.evaluate(f"document.querySelector('tbody button').click(); {NOW}") == (
        pytest.approx(0.32, abs=0.05)
    )
    assert played.evaluate("document.querySelector('tbody button').innerText") == "0:00.3"
    click = (
        "(() => { const chart = [...document.querySelectorAll('.chart')].at(-1);"
        " chart.scrollIntoView(); const box = chart.getBoundingClientRect();"
        " return [box.left + 0.6 * box.width, box.top + box.height / 2]; })()"
    )
    x, y = played.evaluate(click)
    for kind in ("mousePressed", "mouseReleased"):
        played.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    start, end = (
        float(played.evaluate(f"[...document.querySelectorAll('.chart')].at(-1).dataset.{side}"))
        for side in ("start", "end")
    )
    wanted = start + 0.6 * (end - start)
    played.wait_for(f"Math.abs({NOW} - {wanted}) < 0.02")
    played.wait_for("document.querySelector('.docked') !== null")  # the video is far above
    marks = "[...document.querySelectorAll('.now')].map(each => each.getAttribute('visibility'))"
    played.wait_for(f"{marks}.includes('visible')")
    played.evaluate("document.getElementById('undock').click()")
    assert played.evaluate("document.querySelector('.docked')") is None


@pytest.mark.browser
def test_browser_shows_the_page_without_script(browser: Browser, tmp_path: Path) -> None:
    make_video(tmp_path / "clip.overlay.mp4", frames=5, rate=25, size=(160, 120))
    page_of(tmp_path / "p.html", scan_of(), made=OUTPUTS)
    with browser.without_script():
        browser.open(tmp_path / "p.html")
        assert browser.evaluate("document.getElementById('player').hidden") is True
        assert browser.evaluate("document.querySelectorAll('tbody button').length") == 0
        assert browser.evaluate("document.querySelectorAll('.chart').length") > 0
        assert browser.complaints() == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser: Browser, tmp_path: Path, scheme: str) -> None:
    page_of(tmp_path / "p.html", scan_of(), made=OUTPUTS)
    browser.prefer(scheme)
    browser.open(tmp_path / "p.html")
    pairs = browser.text_colours("p, dt, dd, h1, h2, h3, td, th, li, figcaption, .chip")
    assert len(pairs) > 50
    assert pale(pairs) == []
    assert (luminance(pairs[0][1]) < 0.1) == (scheme == "dark")
