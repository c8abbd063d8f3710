"""A fit as a run of MLflow, with its settings and its file:
pip install mlflow, then mlflow ui.
"""

import sys
import tempfile
from pathlib import Path

import mlflow
import numpy as np

from fastmlp import MLP, Adam, Report

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (1000, 4)).astype(np.float32)
y = np.sin(3 * X[:, 0]) * X[:, 1]
quick = "--quick" in sys.argv
folder = Path(tempfile.mkdtemp() if quick else ".")
mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")


def log(report: Report) -> None:
    numbers = {"loss": report.loss, "validation_loss": report.validation_loss}
    mlflow.log_metrics({**numbers, **report.metrics}, step=report.epoch)


net = MLP((4, 64, 1), optimizer=Adam(0.01), seed=0)
with mlflow.start_run() as run:
    mlflow.log_params({"optimizer": net.optimizer, "parameters": net.parameters.size})
    history = net.fit(
        X, y, epochs=5 if quick else 100, validation_split=0.2, callbacks=log
    )
    net.save(folder / "net.safetensors")
    mlflow.log_artifact(str(folder / "net.safetensors"))

print(history)
losses = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
print(f"MLflow has {len(losses)} losses")
