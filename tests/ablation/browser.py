"""A real browser for tests of pages, started once and controlled through the Chrome DevTools Protocol."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_SECONDS = 120
_READS, _WRITES = 3, 4
"""File descriptors of commands and answers of a browser with --remote-debugging-pipe."""


class Browser:
    """A browser process, until `close`. Each message is JSON, followed by a zero byte."""

    def __init__(self, folder: Path) -> None:
        assert PROGRAM
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        # The shell assigns the descriptor numbers that the browser expects.
        names = {"orders": f"/dev/fd/{orders}", "answers": f"/dev/fd/{answers}"}
        self._process = subprocess.Popen(
            [
                *("sh", "-c", f'exec "$@" {_READS}<"$orders" {_WRITES}>"$answers"', "sh", PROGRAM, "--headless"),
                *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
                *("--remote-debugging-pipe", f"--user-data-dir={folder}"),
            ],
            env=os.environ | names,
            pass_fds=(orders, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(orders)
        os.close(answers)
        self._number, self._rest = 0, b""
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        try:
            self.call("Browser.close")
            self._process.wait(_SECONDS)
        finally:
            # No effect if it has exited.
            self._process.kill()
            self._process.wait()
        os.close(self._orders)
        os.close(self._answers)

    def call(self, method: str, session: str = "", **parameters: Any) -> Any:
        """Sends a command and returns its answer; other messages are added to `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._orders, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def wait(self, method: str) -> None:
        """Waits for an event."""
        while not any(event["method"] == method for event in self.events):
            self.events.append(self._receive())

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], _SECONDS)[0], "the browser does not answer"
            read = os.read(self._answers, 1 << 20)
            assert read, "the browser has ended"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


class Tab:
    """A page in a window of the given size, dark or light."""

    def __init__(self, browser: Browser, page: Path, *, width: int = 1000, dark: bool = False) -> None:
        self._browser = browser
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        browser.events.clear()
        self._call("Page.navigate", url=page.as_uri())
        browser.wait("Page.loadEventFired")

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)

    @property
    def console(self) -> list[str]:
        """Messages of the console: the browser's errors and the output of scripts."""
        expected = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(event["params"]) for event in self._browser.events if event["method"] in expected]

    def ask(self, question: str) -> Any:
        """The return value of a function body that the page runs."""
        answer = self._call("Runtime.evaluate", expression=f"(() => {{ {question} }})()", returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def pdf(self) -> bytes:
        return base64.b64decode(self._call("Page.printToPDF")["data"])

    def _call(self, method: str, **parameters: Any) -> Any:
        return self._browser.call(method, self._session, **parameters)
