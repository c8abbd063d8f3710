"""Accessibility of the built site: axe-core in a headless Chromium, on a desk and on a phone.

    npm install --prefix /tmp/axe axe-core
    python -m docs.tools.accessibility docs/_build /tmp/axe/node_modules/axe-core/axe.min.js

Prints each serious or critical finding, and exits with 1 if there is one. Chromium is told what to
do through a pipe (the DevTools protocol), so that nothing needs to be installed in Python.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any

# One page of each kind.
PAGES = (
    "index",
    "start/first-net",
    "start/which-model",
    "from/keras",
    "how-to/index",
    "how-to/derivatives",
    "api/index",
    "api/generated/fastmlp.MLP",
    "parameters",
    "errors",
    "auto_gallery/index",
    "auto_gallery/plot_calibration",
    "benchmarks",
    "project/changes",
    "search",
)
WIDTHS, SCHEMES = (360, 1280), ("light", "dark")
LOADED = "document.readyState == 'complete' || new Promise(done => addEventListener('load', done))"
RUN = (
    'axe.run(document, {resultTypes: ["violations"]}).then(result => result.violations)'
)


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
            # Chromium reads descriptor 3 and writes to 4, which the pipes may have themselves.
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
        self._answers, self._messages = answers, self._read(answers)
        self._n, self._session = 0, ""
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

    def show(self, address: str, width: int, scheme: str) -> None:
        """Open a page at a width, in light or dark."""
        size = {
            "width": width,
            "height": 800,
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

    def picture(self) -> bytes:
        """The whole page as PNG."""
        result = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(result["data"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0] if __doc__ else None
    )
    parser.add_argument("site", type=Path, help="the folder of the built site")
    parser.add_argument("axe", type=Path, help="axe.min.js of the npm package axe-core")
    parser.add_argument("--pages", nargs="+", default=PAGES)
    parser.add_argument(
        "--pictures", type=Path, help="a folder for a picture of each page"
    )
    options = parser.parse_args(arguments)
    n_findings, axe = 0, options.axe.read_text()
    with Browser() as browser:
        for page, width, scheme in product(options.pages, WIDTHS, SCHEMES):
            query = "?q=early+stopping" if page == "search" else ""
            file = (options.site / f"{page}.html").resolve(strict=True)
            browser.show(f"{file.as_uri()}{query}", width, scheme)
            browser.value(axe)
            for finding in browser.value(RUN):
                if finding["impact"] in ("serious", "critical"):
                    n_findings += 1
                    nodes = finding["nodes"]
                    print(
                        f"{page} {width} {scheme}: {finding['impact']} {finding['id']}",
                        end="",
                    )
                    print(
                        f", {len(nodes)} x, {finding['help']}: {nodes[0]['html'][:200]}"
                    )
            if options.pictures:
                options.pictures.mkdir(parents=True, exist_ok=True)
                name = f"{page.replace('/', '-')}-{width}-{scheme}.png"
                (options.pictures / name).write_bytes(browser.picture())
    print(f"{n_findings} serious or critical findings on {len(options.pages)} pages")
    return int(n_findings > 0)


if __name__ == "__main__":
    sys.exit(main())
