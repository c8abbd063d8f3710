"""Accessibility of the built site:
axe-core in a headless Chromium, on a desk and on a phone.

    npm install --prefix /tmp/axe axe-core python -m docs.tools.accessibility
    docs/_build /tmp/axe/node_modules/axe-core/axe.min.js

Prints each serious or critical finding, and exits with 1 if there is one.
"""

import argparse
import sys
from itertools import product
from pathlib import Path

from docs.tools.browser import Browser

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
WIDTHS = (360, 1280)
SCHEMES = ("light", "dark")
RUN = (
    'axe.run(document, {resultTypes: ["violations"]}).then(result => result.violations)'
)


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
    n_findings = 0
    axe = options.axe.read_text()
    with Browser() as browser:
        for page, width, scheme in product(options.pages, WIDTHS, SCHEMES):
            query = "?q=early+stopping" if page == "search" else ""
            file = (options.site / f"{page}.html").resolve(strict=True)
            browser.show(f"{file.as_uri()}{query}", width, scheme=scheme)
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
