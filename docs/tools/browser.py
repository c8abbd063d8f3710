"""A headless Chromium, told what to do through a pipe (the DevTools protocol).

Nothing needs to be installed in Python; in Debian Chromium is the package `chromium`.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

LOADED = "document.readyState == 'complete' || new Promise(done => addEventListener('load', done))"


def chromium() -> str | None:
    """The path of an installed Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Browser:
    """A headless Chromium with one page open."""

    def __init__(self) -> None:
        program = chromium()
        if program is None:
            raise FileNotFoundError("Chromium is not installed")
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = (
            "--headless",
            "--no-sandbox",
            "--remote-debugging-pipe",
            "--hide-scrollbars",
        )
        to_browser, self._commands = os.pipe()
        answers, from_browser = os.pipe()

        def connect() -> None:
            # Chromium reads descriptor 3 and writes to 4,
            # which the pipes may have themselves.
            ends = os.dup(to_browser), os.dup(from_browser)
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(
            [program, *options, f"--user-data-dir={self._profile.name}"],
            close_fds=False,
            preexec_fn=connect,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._answers = answers
        self._messages = self._read(answers)
        self._n = 0
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)
        self._profile.cleanup()

    @staticmethod
    def _read(answers: int) -> Iterator[dict[str, Any]]:
        text = b""
        while part := os.read(answers, 1 << 16):
            *whole, text = (text + part).split(b"\0")
            yield from map(json.loads, whole)

    def call(self, method: str, **params: Any) -> Any:
        """The result of a command of the DevTools protocol."""
        self._n += 1
        message: dict[str, Any] = {"id": self._n, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        for answer in self._messages:
            if answer.get("id") == self._n:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
        raise ConnectionError("Chromium has ended")

    def show(
        self, address: str, width: int, height: int = 800, scheme: str = "light"
    ) -> None:
        """Open a page on a screen of a size, in light or dark."""
        size = {
            "width": width,
            "height": height,
            "deviceScaleFactor": 1,
            "mobile": width < 600,
        }
        self.call("Emulation.setDeviceMetricsOverride", **size)
        dark = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[dark])
        self.call("Page.navigate", url=address)
        self.value(LOADED)

    def value(self, expression: str) -> Any:
        """The value of an expression of JavaScript, awaited if it is a promise."""
        options = {"awaitPromise": True, "returnByValue": True}
        result = self.call("Runtime.evaluate", expression=expression, **options)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
        return result["result"].get("value")

    def type(self, text: str) -> None:
        """Type a text, and Enter, which opens another page,
        into the field with the focus.
        """
        self.value("window.before = true")
        self.call("Input.insertText", text=text)
        enter = {"key": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        self.call("Input.dispatchKeyEvent", type="keyDown", **enter)
        self.until("!window.before && document.readyState == 'complete'")

    def until(self, expression: str, seconds: float = 20) -> Any:
        """The value of an expression as soon as it is true,
        also on a page that comes.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(RuntimeError):
                if value := self.value(expression):
                    return value
            time.sleep(0.02)
        raise TimeoutError(f"after {seconds} s not true: {expression}")

    def picture(self, whole: bool = True) -> bytes:
        """The whole page as PNG, or its first screen."""
        result = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(result["data"])
