"""A browser for tests of pages, and what WCAG asks of their colours."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """A headless Chromium that is spoken to over a pipe: no port, no driver."""

    def __init__(self, program: str, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
        command += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
        command += ["--disable-component-update", f"--user-data-dir={profile}"]
        command += ["--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        fcntl.fcntl(self._in, fcntl.F_SETFL, os.O_NONBLOCK)
        self._held = b""
        self._count = 0
        self.events: list[dict[str, Any]] = []
        targets = self.ask("Target.getTargets")["targetInfos"]
        target = next(each["targetId"] for each in targets if each["type"] == "page")
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    _session: str | None = None

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def open(self, page: Path, width: int | None = None) -> None:
        """Open a page, 900 pixels high if a width is given, and wait until it has loaded."""
        if width is not None:
            self.ask(
                "Emulation.setDeviceMetricsOverride",
                width=width, height=900, deviceScaleFactor=1, mobile=width < 500,
            )  # fmt: skip
        self.events.clear()
        self.ask("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str) -> Any:
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        deadline = time.monotonic() + 20
        while not self.evaluate(condition):
            assert time.monotonic() < deadline, condition
            time.sleep(0.05)

    def prefer(self, scheme: str) -> None:
        """Prefer "light" or "dark" colours."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=features)

    @contextmanager
    def without_script(self) -> Iterator[None]:
        self.ask("Emulation.setScriptExecutionDisabled", value=True)
        try:
            yield
        finally:
            self.ask("Emulation.setScriptExecutionDisabled", value=False)

    def complaints(self) -> list[str]:
        """What the browser logged: the last word of each entry."""
        logged = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
        return [
            event["params"].get("entry", {}).get("text", str(event)).rpartition(" ")[2]
            for event in self.events
            if event.get("method") in logged
        ]

    def requests(self) -> list[str]:
        """The addresses that the page asked for besides files and data in it."""
        asked = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith(("data:", "file:"))]

    def text_colours(self, selector: str) -> list[list[str]]:
        """Ink, paper and start of each text, of elements that hold some."""
        found: list[list[str]] = self.evaluate(
            """
            [...document.querySelectorAll('SELECTOR')]
              .filter(e => e.innerText.trim()).map(e => {
                let back = e;
                const clear = 'rgba(0, 0, 0, 0)';
                while (getComputedStyle(back).backgroundColor === clear) back = back.parentElement;
                return [getComputedStyle(e).color, getComputedStyle(back).backgroundColor,
                        e.innerText.slice(0, 40)];
              })
            """.replace("SELECTOR", selector)
        )
        return found

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._in], [], [], 60)
            assert ready, "the browser says nothing"
            part = os.read(self._in, 1 << 20)
            assert part, "the browser went away"
            self._held += part
        line, _, self._held = self._held.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer


def start_browser(profile: Path) -> Browser:
    """Start Chromium with an empty profile; without one the test is skipped."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        if "browser" in os.environ.get("DEEPSCAN_REQUIRE", ""):
            pytest.fail("DEEPSCAN_REQUIRE names the browser, but no Chromium is installed")
        pytest.skip("no Chromium is installed")
    return Browser(program, profile)


def luminance(colour: str) -> float:
    """The relative luminance of "rgb(1, 2, 3)", 0 to 1, by WCAG 2.2."""
    levels = [int(level) / 255 for level in re.findall(r"\d+", colour)[:3]]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in levels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def pale(pairs: Iterable[list[str]]) -> list[str]:
    """Texts with less contrast than 4.5, which WCAG 2.2 asks of text at level AA."""
    found = []
    for ink, paper, text in pairs:
        dark, light = sorted((luminance(ink), luminance(paper)))
        if (light + 0.05) / (dark + 0.05) < 4.5:
            found.append(text)
    return found
