"""Writes results.junit.xml: one test case per file, for CI servers.

manipulated is a failure; inconclusive and error are errors; not-applicable is skipped; no-evidence
passes, and so does suspicious, with a note in its output. A stopped run has an extra case with an
error.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path
from xml.etree import ElementTree

from deepscan import wording
from deepscan.archive.records import Outcome, Results
from deepscan.archive.reports import gone_text, unfinished_text
from deepscan.files import atomic_output
from deepscan.types import Label
from deepscan.wording import passed_over_text

# XML 1.0 cannot hold these characters, not even as references; `visible` spells out controls.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


_STATES = {  # labels that do not pass -> elements of a test case
    Label.MANIPULATED: "failure",
    Label.INCONCLUSIVE: "error",
    Label.ERROR: "error",
    Label.NOT_APPLICABLE: "skipped",
}


def write_junit(results: Results, path: Path, *, today: date | None = None) -> None:
    """Write one test case for each file; findings that the baseline accepts today pass.

    Raises:
        OutputError: the file cannot be written.
    """
    day = today or datetime.now(UTC).date()
    suite = ElementTree.Element("testsuite")
    passed, gone = passed_over_text(results.run.passed_over), gone_text(results)
    if passed or gone:
        properties = ElementTree.SubElement(suite, "properties")
        for name, value in (("passed over", passed), ("gone", gone)):
            if value:
                ElementTree.SubElement(properties, "property", name=name, value=_xml(value))
    counts = {"failure": 0, "error": 0, "skipped": 0}
    for outcome in results.outcomes:
        accepted = results.baseline.accepts(outcome, day) if results.baseline else None
        state = _STATES.get(outcome.label)
        folder, _, name = outcome.name.rpartition("/")
        case = ElementTree.SubElement(
            suite,
            "testcase",
            name=_xml(name),
            # Servers group by it; they would take dots in a folder's name for packages.
            classname=_xml(folder or "."),
            time=f"{max(0.0, outcome.took):.3f}",
        )
        if accepted is not None:
            until = accepted.expires.isoformat()
            note = f"Accepted until {until}: {accepted.reason}\n{_told(outcome)}"
        elif state:
            counts[state] += 1
            child = ElementTree.SubElement(case, state, message=_xml(_headline(outcome)))
            if state != "skipped":
                child.set("type", str(outcome.label))
            child.text, note = _xml(_told(outcome)), ""
        else:
            note = _told(outcome)
        if note:
            ElementTree.SubElement(case, "system-out").text = _xml(note, lines=True)
    if unfinished := unfinished_text(results):
        # Without it a server would take the results for complete.
        counts["error"] += 1
        case = ElementTree.SubElement(
            suite, "testcase", name="all files are scanned", classname="deepscan", time="0.000"
        )
        ElementTree.SubElement(case, "error", type="unfinished", message=_xml(unfinished))
    suite.attrib.update(
        name="deepscan",
        tests=str(len(results.outcomes) + bool(unfinished)),
        failures=str(counts["failure"]),
        errors=str(counts["error"]),
        skipped=str(counts["skipped"]),
        time=f"{sum(max(0.0, each.took) for each in results.outcomes):.3f}",
        timestamp=_xml(results.run.started.removesuffix("Z").partition("+")[0]),
    )
    suites = ElementTree.Element("testsuites", {**suite.attrib})
    del suites.attrib["timestamp"]
    suites.append(suite)
    with atomic_output(path) as part:
        ElementTree.ElementTree(suites).write(part, encoding="utf-8", xml_declaration=True)


def _headline(outcome: Outcome) -> str:
    return f"{outcome.label}: {'; '.join(reason.text for reason in outcome.reasons)}"


def _told(outcome: Outcome) -> str:
    parts = [f"{reason.text} ({reason.code})" for reason in outcome.reasons]
    parts += [
        f"face {each.track_id}, {wording.time_span(each.start, each.end)}:"
        f" {each.label}, score {wording.probability(each.score)}"
        for each in outcome.intervals
    ]
    if outcome.provenance not in (None, "absent", "unknown", "unsupported"):
        parts.append(f"content credentials: {outcome.provenance}")
    if outcome.same_as is not None:
        parts.append(f"same content as {outcome.same_as}")
    return f"{wording.phrase(f'headline.{outcome.label}')} {'; '.join(parts)}"


def _xml(text: str, *, lines: bool = False) -> str:
    """Make a text valid for XML, with controls spelled out; with `lines` line ends are kept."""
    if lines:
        return "\n".join(_xml(line) for line in text.split("\n"))
    return _NO_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", wording.visible(text))
