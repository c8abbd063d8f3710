"""A net in a browser: its C file becomes WebAssembly, in a page that is one file.

The page colours each of 240 x 240 points by the net's probabilities, and shows those at
the pointer. clang makes WebAssembly, where it has the linker wasm-ld
(Debian: clang, lld).
"""

import base64
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from fastmlp import MLP, to_c

PAGE = Path(__file__).parent / "browser" / "page.html"
OPTIONS = (
    "--target=wasm32 -O3 -msimd128 -ffreestanding -fno-builtin -nostdlib "
    "-Wl,--no-entry -Wl,--export=x,--export=y,--export=predict"
)
WEB = """
#define NET_IMPLEMENTATION
#include "net.h"
float x[NET_INPUTS], y[NET_OUTPUTS];
void predict(void) { net_predict(x, y); }
"""


def spirals(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of three spirals, and the number of each point's spiral."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    along = rng.uniform(0.1, 1, n)
    angles = 4 * along + labels * 2 * np.pi / 3 + rng.normal(0, 0.15, n)
    directions = np.column_stack([np.cos(angles), np.sin(angles)])
    return along[:, None] * directions, labels


def build(net: MLP, folder: Path) -> Path:
    """Write the page of a net of two inputs and three probabilities to a folder."""
    to_c(net, folder / "net.h", prefix="net")
    (folder / "web.c").write_text(WEB)
    command = ["clang", *OPTIONS.split(), "web.c", "-o", "net.wasm"]
    subprocess.run(command, cwd=folder, check=True)
    code = base64.b64encode((folder / "net.wasm").read_bytes()).decode()
    page = folder / "net.html"
    page.write_text(PAGE.read_text().replace("@WASM@", code))
    return page


X, y = spirals(3000)
net = MLP((2, 32, 32, 3), loss="cross_entropy", activation="tanh", seed=0)
quick = "--quick" in sys.argv
net.fit(X, y, epochs=2 if quick else 60)
right = net.predict(X).argmax(axis=1) == y
print(f"accuracy: {right.mean():.3f}")
if shutil.which("clang") and shutil.which("wasm-ld"):
    page = build(net, Path(tempfile.mkdtemp()))
    print(f"open {page.as_uri()}")
else:
    print("clang for wasm32 is not installed: there is no page")
