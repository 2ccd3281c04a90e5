"""The four trackers, each spoken to through its own client, with all that looks at the machine switched off.

Where they send is their own affair: WANDB_MODE=offline, WANDB_BASE_URL, MLFLOW_TRACKING_URI, TRACKIO_DIR,
TRACKIO_SPACE_ID and the rest of their variables hold.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

EndState = Literal["finished", "stopped", "failed"]
VARIABLES = {
    **{"WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
    **{"WANDB_INIT_TIMEOUT": "25", "WANDB_FINISH_TIMEOUT": "25"},
}
"""Set where a user did not. W&B's own waits are longer: a process whose server is gone would not end for minutes."""
_importing = threading.Lock()
MLFLOW_BATCH = 100
"""Parameters that MLflow takes in one call."""
MLFLOW_VALUE = 6000
"""Characters that MLflow keeps of one parameter."""


class TrackedRun(NamedTuple):
    """What a tracker is told of a run before its first number."""

    id: str
    begun: bool
    """Whether `id` names a tracked run that is resumed."""
    points: int
    """Steps, of all groups, that it was told before."""
    project: str
    name: str
    job: str
    folder: Path
    settings: Mapping[str, Any]


class Tracker(Protocol):
    """A tracked run. Any method may raise whatever the client does."""

    id: str
    """What to open it by again."""

    def add(self, group: str, step: int, numbers: Mapping[str, float]) -> None:
        """Each number at `group/name`; steps of a group rise."""

    def flush(self) -> None:
        """What was added survives the process, as far as the client can promise it."""
        return  # the clients of most have it, or send it themselves within a second

    def conclude(self, numbers: Mapping[str, float], picture: Path | None) -> None:
        """The results of a run that finished, and its picture (PNG)."""

    def close(self, outcome: EndState) -> None:
        """The end; nothing comes after."""


class TensorBoard(Tracker):
    """Event files below `run folder/tensorboard`, written without torch or TensorFlow."""

    def __init__(self, shown: TrackedRun) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.id = shown.id
        self._writer = EventFileWriter(str(shown.folder / "tensorboard"))
        if not shown.begun:
            rows = [f"| {key} | {str(value).replace('|', ' ')} |" for key, value in shown.settings.items()]
            self._text("settings", "\n".join(["| setting | value |", "|---|---|", *rows]))

    def add(self, group: str, step: int, numbers: Mapping[str, float]) -> None:
        """Scalars at `group/name`."""
        self._write(step, [{"tag": f"{group}/{name}", "simple_value": value} for name, value in numbers.items()])

    def flush(self) -> None:
        """The event file is on the disk."""
        self._writer.flush()

    def conclude(self, numbers: Mapping[str, float], picture: Path | None) -> None:
        """Scalars at `result/name`, an image at `result`."""
        self.add("result", 0, numbers)
        if picture:
            from tensorboard.compat.proto.summary_pb2 import Summary

            png = picture.read_bytes()
            width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
            image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=4)
            self._write(0, [{"tag": "result", "image": image}])

    def close(self, outcome: EndState) -> None:
        """Flushes what is written."""
        self._writer.close()

    def _text(self, tag: str, text: str) -> None:
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.plugins.text import metadata

        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
        told = metadata.create_summary_metadata(display_name=tag, description="")
        self._write(0, [{"tag": tag, "tensor": tensor, "metadata": told}])

    def _write(self, step: int, values: list[dict[str, Any]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(**value) for value in values])
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


class Wandb(Tracker):
    """A Weights & Biases run; its own files lie below the run's folder unless WANDB_DIR says otherwise."""

    def __init__(self, shown: TrackedRun) -> None:
        import wandb
        from wandb.sdk.lib import wbauth

        known = wandb.setup(wandb.Settings(silent=True)).settings
        if known.mode == "online" and not wbauth.authenticate_session(
            host=known.base_url, source="ragdist", prompt=False
        ):  # else wandb.init asks on the terminal, and waits
            raise PermissionError("no API key; `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline")
        self.id = shown.id
        self._wandb = wandb
        self._run: Any = wandb.init(
            project=shown.project,
            id=shown.id,
            name=shown.name,
            job_type=shown.job,
            resume="allow",
            reinit="create_new",
            dir=os.environ.get("WANDB_DIR") or str(shown.folder),
            config=dict(shown.settings),
            settings=wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                disable_code=True,
                disable_git=True,
                host="",
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        self._groups: set[str] = set()
        self._points = shown.points

    def add(self, group: str, step: int, numbers: Mapping[str, float]) -> None:
        """Each group has a step of its own, beside W&B's single counter, which only rises, over resumed runs too."""
        if group not in self._groups:
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/step")
            self._groups.add(group)
        named = {f"{group}/{name}": value for name, value in numbers.items()}
        self._run.log({f"{group}/step": step, **named}, step=self._points)
        self._points += 1

    def conclude(self, numbers: Mapping[str, float], picture: Path | None) -> None:
        """Columns of the runs' table, and the picture."""
        self._run.summary.update({f"result/{name}": value for name, value in numbers.items()})
        if picture:
            self._run.log({"result/picture": self._wandb.Image(str(picture))}, step=self._points)

    def close(self, outcome: EndState) -> None:
        """The run's state is finished, or failed."""
        self._run.finish(exit_code={"finished": 0, "stopped": 130, "failed": 1}[outcome])


class MlFlow(Tracker):
    """An MLflow run in the experiment `run.project`; the client's plain calls add no user, host, command or commit."""

    def __init__(self, shown: TrackedRun) -> None:
        from mlflow import MlflowClient, get_tracking_uri
        from mlflow.entities import Param

        if get_tracking_uri().startswith("sqlite") and not importlib.util.find_spec("sqlalchemy"):
            raise LookupError(
                "MLflow keeps runs in a database unless told otherwise, which needs `pip install mlflow`; or set "
                "MLFLOW_TRACKING_URI to a server"
            )
        self._client: Any = MlflowClient()
        if shown.begun:
            self.id = shown.id
            self._client.update_run(self.id, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(shown.project)
        experiment = found.experiment_id if found else self._client.create_experiment(shown.project)
        run = self._client.create_run(experiment, run_name=shown.name, tags={"job": shown.job})
        self.id = run.info.run_id
        told = [Param(key, str(value)[:MLFLOW_VALUE]) for key, value in shown.settings.items()]
        for at in range(0, len(told), MLFLOW_BATCH):
            self._client.log_batch(self.id, params=told[at : at + MLFLOW_BATCH])

    def add(self, group: str, step: int, numbers: Mapping[str, float]) -> None:
        """All numbers of a step in one call."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        named = {re.sub(r"[^\w\-. /]", "_", f"{group}/{name}"): value for name, value in numbers.items()}
        self._client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in named.items()])

    def conclude(self, numbers: Mapping[str, float], picture: Path | None) -> None:
        """Metrics at `result/name`, the picture as an artifact."""
        if numbers:
            self.add("result", 0, numbers)
        if picture:
            self._client.log_artifact(self.id, str(picture))

    def close(self, outcome: EndState) -> None:
        """The run's status."""
        self._client.set_terminated(self.id, {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[outcome])


class Trackio(Tracker):
    """A trackio run; told by its name, so a run folder of the same name in the same project is the same run."""

    def __init__(self, shown: TrackedRun) -> None:
        import matplotlib.figure  # noqa: F401  # trackio looks for it, and the run may be half through importing it
        import trackio

        self.id = shown.id
        self._trackio = trackio
        with contextlib.redirect_stdout(io.StringIO()):  # it greets on stdout, where results belong
            self._run: Any = trackio.init(
                shown.project,
                shown.name,
                group=shown.job,
                config=dict(shown.settings),
                resume="allow" if shown.begun else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self._run.config["_Username"] = None  # the account whose token is in the environment

    def add(self, group: str, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers at `group/name`."""
        self._run.log({f"{group}/{name}": value for name, value in numbers.items()}, step=step)

    def conclude(self, numbers: Mapping[str, float], picture: Path | None) -> None:
        """Numbers at `result/name`, an image at `result/picture`."""
        shown = {"picture": self._trackio.Image(str(picture))} if picture else {}
        if numbers or shown:
            self._run.log({f"result/{name}": value for name, value in {**numbers, **shown}.items()})

    def close(self, outcome: EndState) -> None:
        """Writes what is left."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()


KINDS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MlFlow,
    "trackio": Trackio,
}


def open_tracker(name: str, shown: TrackedRun) -> Tracker:
    """The tracked run, begun or resumed; blocks as long as its client does."""
    with _importing:  # some change the filters of warnings as they are imported, which threads share
        for variable, value in VARIABLES.items():
            os.environ.setdefault(variable, value)
        importlib.import_module(name)
    return KINDS[name](shown)
