"""A run as its job writes it, and what trackers keep of it, read without the code under test."""

import json
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

RUN = """
import json, sys
from ragdist.config import loader
from ragdist.tracking.run import append_metrics, open_run
from ragdist.tracking.mirror import follow
first, last, finish, *arguments = sys.argv[1:]
with open_run(loader.load(arguments), "raft") as run, follow(run):
    for step in range(int(first), int(last) + 1):
        append_metrics(run.folder, "train", step=step, steps=4, loss=1 / step)
    if finish == "kill":
        import os, signal, time
        marks = [run.folder / "trackers" / f"{name}.json" for name in run.settings.run.trackers]
        while not all(mark.exists() and json.loads(mark.read_text())["read"] for mark in marks):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    if finish == "no":
        from ragdist.errors import Stopped
        raise Stopped("later")
    run.write_json("summary.json", {"scores": [{"model": "RAFT", "condition": "oracle", "em": {"mean": 0.75}}],
                                    "minutes": {"train": 1.5}})
    from matplotlib.figure import Figure
    Figure(figsize=(1, 1)).savefig(run.folder / "report.png")
"""


def play(folder, first, last, *arguments, finish="yes", environment=None):
    """A job of its own process that notes the steps `first` to `last`, and then ends well (yes), is stopped (no), or
    is killed as soon as all trackers were told (kill)."""
    command = [sys.executable, "-c", RUN, str(first), str(last), finish]
    return subprocess.run(
        [*command, f"run.folder={folder}", "run.name=one", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        cwd=folder,
    )


def home(folder, **more):
    """An environment in which every client keeps all it has below `folder` and calls nobody."""
    import os

    kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "LANG") if key in os.environ}
    return {
        **kept,
        "HOME": str(folder),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "TRACKIO_DIR": str(folder / "trackio"),
        "HF_HUB_OFFLINE": "1",
        **more,
    }


def tensorboard(folder):
    """(tag, step, value) of every scalar, in the order they were written."""
    return [
        (value.tag, event.step, round(value.tensor.float_val[0], 4))
        for path in sorted(folder.glob("events.*"))
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tensor.float_val
    ]


def mlflow(folder):
    """(metric, step, value) of the one run, its status, its parameters, from the files of MLflow's file store."""
    (meta,) = [path for path in folder.glob("*/*/meta.yaml") if path.parent.parent.name != ".trash"]
    run = meta.parent
    metrics = [
        (str(path.relative_to(run / "metrics")), int(step), round(float(value), 4))
        for path in sorted((run / "metrics").rglob("*"))
        if path.is_file()
        for _, value, step in (line.split() for line in path.read_text().splitlines())
    ]
    params = {path.name: path.read_text() for path in (run / "params").iterdir()}
    return metrics, meta.read_text(), params


def trackio(folder):
    """(run, step, numbers) of every logged row, from trackio's own database."""
    (database,) = folder.glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select run_name, step, metrics from metrics order by id").fetchall()
    return [(name, step, json.loads(metrics)) for name, step, metrics in rows]


def wandb(folder):
    """Every record of the offline files, in order: W&B's messages in LevelDB's log format, blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    return [
        Record.FromString(data)
        for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))
        for data in log_records(path.read_bytes())
    ]


def log_records(data, block=32768, header=7):
    """The records of a LevelDB log after a file header: each piece is crc (4 bytes), length (2), kind (1), content."""
    whole, at = b"", header
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            yield whole
            whole = b""


def run_code(code, *arguments):
    """Runs Python code in a process of its own, which must end well."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
