"""Train on Parquet files, and predict others to Parquet:
no table is ever in memory as a whole.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastmlp import MLP, Adam, predict_arrow, predict_parquet

quick = "--quick" in sys.argv
n_days = 4 if quick else 20
n_rows = 2_000 if quick else 50_000
rng = np.random.default_rng(0)


def day():
    hour = rng.uniform(0, 24, n_rows)
    load = rng.normal(size=n_rows)
    by_hour = np.sin(hour / 24 * 2 * np.pi)
    by_load = load * (hour > 12)
    noise = rng.normal(0, 0.2, n_rows)
    hot = by_hour + by_load + noise > 0.5
    return {"hour": hour.round(2), "load": load, "hot": hot.astype(np.int8)}


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    files = [folder / f"day{k:02}.parquet" for k in range(n_days)]
    for path in files:
        pq.write_table(pa.table(day()), path, row_group_size=5_000)

    net = MLP((2, 32, 1), loss="binary_cross_entropy", optimizer=Adam(0.01), seed=0)
    net.fit(files[:-1], target="hot", epochs=3, batch_size=250, buffer_rows=20_000)
    names = net.feature_names
    print(f"{net.n_steps} steps over {n_days - 1} files, by the columns {names}")

    # The file of predictions appears when it is whole.
    predictions = folder / "predictions.parquet"
    written = predict_parquet(net, files[-1], predictions, keep="hot")
    found = pq.read_table(predictions)
    right = np.mean(np.asarray(found["hot"]) == np.asarray(found["prediction"]))
    print(f"{written} rows to a file, with {', '.join(found.column_names)}")
    print(f"{100 * right:.1f} % of the last day are right")

    # The same as a stream, of which polars, DuckDB and pandas pull batches.
    sums = np.zeros(24)
    n = np.zeros(24)
    for batch in predict_arrow(net, files, keep="hour", batch_rows=10_000):
        hour = np.asarray(batch.column("hour")).astype(int) % 24
        probability = np.asarray(batch.column("probability_1"))
        sums += np.bincount(hour, probability, minlength=24)
        n += np.bincount(hour, minlength=24)
    print("hour  mean probability of hot")
    for hour in range(0, 24, 6):
        print(f"{hour:4}  {sums[hour] / n[hour]:.2f}")
