"""A fit that TensorBoard shows: pip install tensorboard,
then tensorboard --logdir runs.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from tensorboard.summary import Writer

from fastmlp import MLP, Adam, Cosine, Report

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (1000, 4)).astype(np.float32)
y = np.sin(3 * X[:, 0]) * X[:, 1]
quick = "--quick" in sys.argv
folder = Path(tempfile.mkdtemp() if quick else "runs") / "cosine"
writer = Writer(str(folder))


def log(report: Report) -> None:
    scalars = {"loss": report.loss, "learning rate": report.learning_rate}
    scalars |= {"validation loss": report.validation_loss, **report.metrics}
    for name, value in scalars.items():
        writer.add_scalar(name, value, report.epoch)


net = MLP((4, 64, 1), optimizer=Adam(Cosine(0.01)), seed=0)
history = net.fit(
    X,
    y,
    epochs=5 if quick else 100,
    validation_split=0.2,
    metrics={"mae": "mae"},
    callbacks=log,
)
writer.close()
print(history)
n_bytes = sum(path.stat().st_size for path in folder.iterdir())
print(f"{n_bytes} bytes of events in {folder.name}")
