"""A headless Chromium for tests, driven over two pipes (the DevTools protocol), with no package.

with Browser(find_chromium(), profile) as browser:
    page = browser.open(url)
    page.wait_for("document.title === 'x'"); page.evaluate("1 + 1"); page.press("Tab")
    page.resize(360, 800); page.emulate("prefers-color-scheme", "dark")
    page.screenshot(path, height=2000); page.nodes()
    page.problems, page.requests      errors of scripts and policies; addresses it asked
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ANSWER_S = 30.0
LAUNCH = """
import fcntl, os, sys
r, w = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(r, 3); os.dup2(w, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
    *("--no-first-run", "--disable-extensions", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--lang=en"),
)
KEYS = {
    "Tab": {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9},
    "Enter": {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"},
    "Space": {"key": " ", "code": "Space", "windowsVirtualKeyCode": 32, "text": " "},
    "Alt+P": {"key": "p", "code": "KeyP", "windowsVirtualKeyCode": 80, "modifiers": 1},
}


def find_chromium() -> str:
    """Its path. Without one the test is skipped, and fails where all must run (CI=true)."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    why = f"no browser: none of {', '.join(NAMES)} is installed (Debian: apt-get install chromium)"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


class Browser:
    """One process with a profile of its own."""

    def __init__(self, path: str, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        launch = [sys.executable, "-c", LAUNCH, str(theirs_in), str(theirs_out)]
        self._process = subprocess.Popen(
            [*launch, path, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._last, self._rest = 0, b""
        self._pages: dict[str, Page] = {}
        self._targets: list[str] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        os.close(self._out)
        os.close(self._in)

    def open(self, url: str) -> Page:
        """A new tab, the only one: those opened before are closed."""
        for old in self._targets:
            self.call("Target.closeTarget", {"targetId": old})
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        found = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._targets = [target]
        page = self._pages[found["sessionId"]] = Page(self, found["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setFocusEmulationEnabled", {"enabled": True})
        page.go(url)
        return page

    def call(
        self, method: str, params: dict[str, Any] | None = None, session: str | None = None
    ) -> dict[str, Any]:
        """The answer to a command; events that come before it are noted."""
        self._last += 1
        asked: dict[str, Any] = {"id": self._last, "method": method, "params": params or {}}
        if session:
            asked["sessionId"] = session
        os.write(self._out, json.dumps(asked).encode() + b"\0")
        end = time.monotonic() + ANSWER_S
        while True:
            message = self._read(end - time.monotonic(), method)
            if message.get("id") == self._last:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])
            page = self._pages.get(message.get("sessionId", ""))
            if page is not None and "method" in message:
                page.note(message["method"], message["params"])

    def _read(self, seconds: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(seconds, 0.0))
            assert ready, f"the browser did not answer {method} within {ANSWER_S:g} s"
            piece = os.read(self._in, 1 << 20)
            assert piece, f"the browser ended while it was asked {method}"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.problems: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._browser.call(method, params, self._session)

    def go(self, url: str) -> None:
        self.call("Page.navigate", {"url": url})
        self.wait_for(f"document.readyState === 'complete' && location.href.startsWith({url!r})")

    def evaluate(self, expression: str) -> Any:
        params = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", params)
        assert "exceptionDetails" not in found, (expression, found["exceptionDetails"])
        return found["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"not within {seconds:g} s: {condition}"
            time.sleep(0.05)

    def press(self, name: str) -> None:
        key = dict(KEYS[name])
        self.call("Input.dispatchKeyEvent", {"type": "keyDown", **key})
        key.pop("text", None)
        self.call("Input.dispatchKeyEvent", {"type": "keyUp", **key})

    def type(self, text: str) -> None:
        self.call("Input.insertText", {"text": text})

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", size)

    def emulate(self, feature: str, value: str) -> None:
        features = [{"name": feature, "value": value}]
        self.call("Emulation.setEmulatedMedia", {"features": features})

    def screenshot(self, path: Path, height: int) -> None:
        """The first `height` pixels of the page, beyond the window too."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        area = {
            "x": 0,
            "y": 0,
            "width": size["width"],
            "height": min(size["height"], height),
            "scale": 1,
        }
        wanted = {"captureBeyondViewport": True, "clip": area}
        shot = self.call("Page.captureScreenshot", wanted)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def nodes(self) -> list[dict[str, Any]]:
        """What a screen reader is told: role, name and description of each node."""
        found = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            {k: n.get(k, {}).get("value", "") for k in ("role", "name", "description")}
            for n in found
            if not n.get("ignored")
        ]

    def note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["source"] != "network":
            self.problems.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.problems.append(json.dumps(params["args"])[:500])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
