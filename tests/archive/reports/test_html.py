"""The page over all files: says what is there, is safe to open, works with and without script."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pictures

from deepscan import wording
from deepscan.archive.records import OutputFile, Results
from deepscan.archive.reports import SEVERITY
from deepscan.archive.reports import html as html_report
from deepscan.archive.reports.html import headline, parts_of, picture_of, write_html
from deepscan.sinks.record import name_bytes
from deepscan.types import Label, Reason
from tests.archive.reports.test_reports import HIDDEN, NASTY, RUN, named, outcome, results
from tests.browser import Browser, luminance, pale
from tests.sinks import build
from tests.sinks.test_html import Seen, page_of, parsed


def page(made: Results) -> str:
    write_html(made, made.folder / "summary.html")
    return (made.folder / "summary.html").read_text(encoding="utf-8")


def links(seen: Seen) -> list[str]:
    """What leads out of the page."""
    return [link for link in seen.links if not link.startswith("#")]


def outputs(*kinds: str, folder: str = "files/a.mp4") -> tuple[OutputFile, ...]:
    suffixes = {"html": "html", "record": "json"}
    return tuple(
        OutputFile(kind, f"{folder}/result.{suffixes.get(kind, f'{kind}.mp4')}", "0" * 64, 1)
        for kind in kinds
    )


def test_page_says_what_is_known(tmp_path: Path) -> None:
    seen = parsed(page(results(tmp_path)))
    for label in Label:
        assert f"clips/{label}.mp4" in seen.text
        assert wording.phrase(f"label.{label}") in seen.text
    assert "Signs of face manipulation were found in 1 of 6 files." in seen.text
    assert wording.phrase("caveat.manipulated") in seen.text
    assert "0:01.0–0:02.5 face 0 (0.97)" in seen.text
    assert "Only 1 of 9 face sightings were judged" in seen.text
    for fact in ("deepscan clips --out results", "msccnet-s", "ab" * 32, "clips-1", "0.912",
                 "1.0 %", "passed: known-clean 0.020, known-manipulated 0.980"):  # fmt: skip
        assert fact in seen.text
    assert "has not finished" not in seen.text
    assert seen.headings == sorted(seen.headings, key=lambda level: level != 1)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, "No file was scanned."),
        ({Label.MANIPULATED: 2, Label.ERROR: 1}, "Signs of face manipulation were found in 2 of 3"),
        ({Label.SUSPICIOUS: 1, Label.NO_EVIDENCE: 9}, "1 of 10 files needs a closer look."),
        ({Label.NO_EVIDENCE: 1}, "No evidence of face manipulation was found in 1 file."),
        ({Label.NO_EVIDENCE: 8, Label.NOT_APPLICABLE: 1}, "found; 1 of 9 files shows no face"),
        ({Label.NO_EVIDENCE: 9, Label.ERROR: 1}, "but 1 of 10 files was not judged to the end."),
        ({Label.INCONCLUSIVE: 2, Label.ERROR: 1}, "3 of 3 files could not be judged."),
        ({Label.NOT_APPLICABLE: 1_200}, "There was no face to analyse in 1,200 files."),
    ],
)
def test_headline_hides_neither_findings_nor_what_was_not_judged(
    counts: dict[Label, int], said: str
) -> None:
    assert said in headline(Counter(counts))


@given(st.dictionaries(st.sampled_from(SEVERITY), st.integers(0, 10**6)))
def test_the_bar_is_full_and_shows_all_that_is_there(counts: dict[Label, int]) -> None:
    parts = parts_of(counts)
    assert [part.label for part in parts] == list(SEVERITY)
    for part in parts:
        assert (part.width > 0.3) == bool(counts.get(part.label))
    if any(counts.values()):
        assert sum(part.width for part in parts) == pytest.approx(100, abs=0.1)


def test_alarms_stand_on_top(tmp_path: Path) -> None:
    run = replace(RUN, controls_passed=False)
    seen = parsed(page(results(tmp_path, finished=False, run=run)))
    assert "no result of this run may be used" in seen.text
    assert "has not finished" in seen.text
    assert "FAILED: known-clean" in seen.text


def test_twins_lead_to_each_other_and_share_outputs(tmp_path: Path) -> None:
    first = outcome(name="a.mp4", outputs=outputs("html", "record"))
    twin = outcome(name="b.mp4", outputs=(), same_as="a.mp4")
    text = page(results(tmp_path, first, twin, outcome(name="c.mp4")))
    seen = parsed(text)
    assert "same content as a.mp4" in seen.text and "same content: b.mp4" in seen.text
    assert links(seen) == ["./files/a.mp4/result.html", "./files/a.mp4/result.json"] * 2 + [
        "./files/c.mp4/result.json"
    ]
    anchors = set(re.findall(r'<tr id="(f\d+)"', text))
    assert anchors == {link[1:] for link in seen.links if re.fullmatch(r"#f\d+", link)}
    assert len(anchors) == 2


def test_superseded_results_are_told_and_not_counted(tmp_path: Path) -> None:
    old = (outcome(Label.SUSPICIOUS, "a.mp4"), outcome(Label.ERROR, "gone.mp4"))
    seen = parsed(page(results(tmp_path, outcome(name="a.mp4"), superseded=old)))
    assert "Superseded results (2)" in seen.text
    assert "not judged again" in seen.text
    assert "was found in 1 file." in seen.text


def test_links_stay_in_the_folder(tmp_path: Path) -> None:
    odd = "files/ä b/c:d#?%\udc80\"'<.mp4"
    bad = ("../up.json", "/etc/passwd", "a/../../b", "")
    made = results(
        tmp_path,
        outcome(name="a", outputs=outputs("record", folder=odd)),
        outcome(name="b", outputs=tuple(OutputFile("record", each, "0" * 64, 1) for each in bad)),
        outcome(name="c", outputs=(OutputFile("record", "javascript:alert(1)", "0" * 64, 1),)),
    )
    first, second = links(parsed(page(made)))
    assert unquote_to_bytes(first) == name_bytes(f"./{odd}/result.json")
    assert re.fullmatch(r"\./[A-Za-z0-9/._~%-]+", first)
    assert second == "./javascript%3Aalert%281%29"

    (tmp_path / "elsewhere").mkdir()
    write_html(made, tmp_path / "elsewhere" / "summary.html")
    seen = parsed((tmp_path / "elsewhere" / "summary.html").read_text())
    assert all(link.startswith("../") and "../.." not in link for link in links(seen))


def test_the_policy_allows_one_script_and_one_style(tmp_path: Path) -> None:
    text = page(results(tmp_path))

    def allowed(tag: str) -> str:
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        return f"{tag}-src 'sha256-{digest}'"

    seen = parsed(text)
    assert seen.policy == (
        f"default-src 'none'; img-src data:; {allowed('style')}; {allowed('script')};"
        " base-uri 'none'; form-action 'none'"
    )
    attributes = {name for _, names in seen.tags for name in names}
    assert not {name for name in attributes if name.startswith("on")} | attributes & {
        "style",
        "src",
    }
    assert {tag for tag, _ in seen.tags}.isdisjoint({"link", "iframe", "object", "form", "base"})


@given(names=st.lists(NASTY, min_size=6, max_size=6, unique=True))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_name_becomes_a_part_of_the_page(names: list[str], tmp_path: Path) -> None:
    def look(*names: str) -> Seen:
        found = named(*(f"d/{name}" for name in names))
        run = replace(RUN, command=(found[0].name,), model=found[0].name)
        return parsed(page(results(tmp_path, *found, run=run, superseded=found)))

    seen = look(*names)
    assert Counter(seen.tags) == Counter(look(*"abcdef").tags)
    assert HIDDEN.search(seen.text) is None
    for name in names:
        # The page keeps blanks; the parser of these tests folds them.
        folded = " ".join(wording.visible(name.rpartition("/")[2]).split())
        assert folded in seen.text


# Thumbnails


@pytest.fixture(scope="module")
def file_page(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("page") / "result.html"
    page_of(path, build.scan(info=build.video()))
    return path.read_bytes()


def test_findings_show_their_strongest_frame(tmp_path: Path, file_page: bytes) -> None:
    made = []
    for label in Label:
        folder = f"files/{label}"
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "result.html").write_bytes(file_page)
        made.append(outcome(label, outputs=outputs("html", folder=folder)))
    seen = parsed(page(results(tmp_path, *made)))
    assert len(seen.pictures) == 2  # manipulated and suspicious
    for uri in seen.pictures:
        head, _, data = uri.partition(",")
        assert head == "data:image/jpeg;base64"
        with Pictures.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.size == (80, 80)
        assert len(uri) < 6_000


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"<figure><img src=\"data:image/jpeg;base64,AAAA\"></figure>",
        b"<figure><img src=\"data:image/jpeg;base64,/9j/4AAQ=\"></figure>",
        b"<figure><img src=\"https://example.org/a.jpg\"></figure>",
        b"<figure><img src=\"data:image/svg+xml;base64,PHN2Zz4=\"></figure>",
    ],
)  # fmt: skip
def test_a_page_without_a_picture_gives_none(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "result.html"
    if content is not None:
        path.write_bytes(content)
    assert picture_of(path) == ""


def test_only_pages_are_opened_for_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def look(path: Path) -> str:
        opened.append(path.name)
        return ""

    monkeypatch.setattr(html_report, "picture_of", look)
    every = outputs("overlay", "masks", "frames", "html", "record")
    page(
        results(
            tmp_path,
            outcome(Label.MANIPULATED, "a", outputs=every),
            outcome(Label.MANIPULATED, "b", outputs=outputs("overlay", "masks")),
            outcome(
                Label.MANIPULATED, "c", outputs=(OutputFile("html", "../x.html", "0" * 64, 1),)
            ),
            outcome(Label.ERROR, "d", outputs=every),
        )
    )
    assert opened == ["result.html"]


def test_pictures_and_rows_are_bounded(
    tmp_path: Path, file_page: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html_report, "PICTURES", 2)
    monkeypatch.setattr(html_report, "ROWS", 5)
    (tmp_path / "files/a.mp4").mkdir(parents=True)
    (tmp_path / "files/a.mp4/result.html").write_bytes(file_page)
    many = [outcome(name=f"{n}.mp4", sha256=f"{n:064x}") for n in range(9)]
    found = [outcome(Label.MANIPULATED, f"x{n}", outputs=outputs("html")) for n in range(4)]
    text = page(results(tmp_path, *many, *found))
    seen = parsed(text)
    assert len(seen.pictures) == 2
    assert len(re.findall("data-k=", text)) == 5
    assert "8 more files" in seen.text
    assert "found in 4 of 13 files" in seen.text
    assert all(f"x{n}" in seen.text for n in range(4))


def many(folder: Path, count: int) -> Results:
    """An archive as they are: most files without a finding, names of some length."""
    labels = [Label.NO_EVIDENCE] * 15 + [Label.NOT_APPLICABLE] * 2 + list(Label)
    made = []
    for n in range(count):
        label = labels[n % len(labels)]
        name = f"broadcast/evening news/2026-{n % 12 + 1:02d}/statement of the minister_{n:05d}.mp4"
        made.append(
            outcome(
                label,
                name,
                sha256=f"{n:064x}",
                score=None if label in (Label.ERROR, Label.NOT_APPLICABLE) else n % 997 / 1_000,
                seconds=float(n % 600),
                reasons=(
                    Reason("partial", "nothing above the review point; the coverage says so"),
                ),
            )
        )
    return results(folder, *made)


def test_ten_thousand_files_fit_in_a_page_that_opens(tmp_path: Path) -> None:
    start = time.perf_counter()
    text = page(many(tmp_path, 10_000))
    assert len(text.encode()) < 6_000_000
    assert text.count("<tr class=") == 10_000
    assert time.perf_counter() - start < 60


# In a browser


def opened(browser: Browser, made: Results, width: int = 1_280) -> None:
    page(made)
    browser.open(made.folder / "summary.html", width)


SHOWN = "[...document.querySelectorAll('#files tbody tr')].filter(r => r.getClientRects().length)"


def shown(browser: Browser) -> list[str]:
    """Names of the rows that can be seen, in order."""
    names: list[str] = browser.evaluate(f"{SHOWN}.map(r => r.querySelector('bdi').textContent)")
    return names


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1_280])
@pytest.mark.parametrize("count", [0, 3, 60])
def test_browser_shows_the_page(browser: Browser, tmp_path: Path, count: int, width: int) -> None:
    made = many(tmp_path, count)
    if count == 3:
        long = "a-very-long-name-without-any-place-to-break-" * 5 + "<b>.mp4"
        made = results(tmp_path, *named(long, "אבג.mp4", "\u202egpj.exe"))
    if not count:
        made = replace(made, outcomes=())
    opened(browser, made, width)
    room = browser.evaluate("document.documentElement.clientWidth")
    assert browser.evaluate("document.documentElement.scrollWidth") == room
    outside = browser.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('svg, .unseen') &&"
        " e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []
    assert len(shown(browser)) == count
    assert browser.complaints() == []
    assert browser.requests() == []


@pytest.mark.browser
def test_browser_sorts(browser: Browser, tmp_path: Path) -> None:
    made = results(
        tmp_path,
        outcome(name="9.mp4", score=0.3, seconds=5.0),
        outcome(name="10.mp4", score=0.2, seconds=70.0),
        outcome(Label.MANIPULATED, "8.mp4", score=0.995, seconds=1.0),
        outcome(Label.ERROR, "7.mp4", seconds=0.0),
    )
    opened(browser, made)

    def click(column: int) -> list[str]:
        browser.evaluate(f"document.querySelectorAll('#files th button')[{column}].click()")
        return [name.removesuffix(".mp4") for name in shown(browser)]

    assert [name.removesuffix(".mp4") for name in shown(browser)] == ["8", "7", "9", "10"]
    assert click(1) == ["7", "8", "9", "10"]
    assert click(1) == ["10", "9", "8", "7"]
    assert click(2) == ["8", "9", "10", "7"]
    assert click(2) == ["10", "9", "8", "7"]  # what has no score is last both ways
    assert click(5) == ["10", "9", "8", "7"]
    assert browser.evaluate(
        "[...document.querySelectorAll('[aria-sort]')].map(h => h.innerText.trim() + h.ariaSort)"
    ) == ["Lengthdescending"]
    assert click(0) == ["8", "7", "9", "10"]


@pytest.mark.browser
def test_browser_filters_and_searches(browser: Browser, tmp_path: Path) -> None:
    twins = (outcome(name="minister/a.mp4"), outcome(name="b.mp4", same_as="minister/a.mp4"))
    opened(browser, results(tmp_path, *map(outcome, Label), *twins))
    told = "document.getElementById('shown').textContent"
    assert browser.evaluate(told) == "8 files"
    browser.evaluate("document.getElementById('show-no-evidence').click()")
    assert set(shown(browser)) == {"b.mp4", "minister/a.mp4", "clips/no-evidence.mp4"}
    assert browser.evaluate(told) == "3 of 8 files shown"

    def search(text: str) -> None:
        browser.evaluate(
            f"(() => {{ const s = document.getElementById('search'); s.value = '{text}';"
            " s.dispatchEvent(new Event('input')); })()"
        )

    search("MINISTER A.mp4")
    browser.wait_for(f"{told} === '2 of 8 files shown'")  # the file, and its twin that names it
    search("corrupt")
    browser.wait_for(f"{told} === '0 of 8 files shown'")
    # A link to a row shows it, whatever hides it.
    browser.evaluate("document.getElementById('show-error').click()")
    browser.evaluate("document.querySelector('#files a[href^=\"#f\"]').click()")
    browser.wait_for(f"{told} === '8 files'")


@pytest.mark.browser
def test_browser_without_script(browser: Browser, tmp_path: Path) -> None:
    with browser.without_script():
        opened(browser, results(tmp_path))
        assert len(shown(browser)) == 6
        assert browser.evaluate("document.querySelectorAll('#files button').length") == 0
        assert browser.evaluate("document.getElementById('search').getClientRects().length") == 0
        browser.evaluate("document.getElementById('show-error').click()")
        assert shown(browser) == ["clips/error.mp4"]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser: Browser, tmp_path: Path, scheme: str) -> None:
    browser.prefer(scheme)
    opened(browser, results(tmp_path, finished=False))
    pairs = browser.text_colours("p, dt, dd, h1, h2, td, th, button, .what, .share, summary")
    assert len(pairs) > 60
    assert pale(pairs) == []
    assert (luminance(pairs[0][1]) < 0.1) == (scheme == "dark")
