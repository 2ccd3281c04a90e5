"""Training on Ray with two workers: undisturbed, with a worker killed, with the driver stopped and killed."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ragdist.cluster.train import RayTuner
from ragdist.config.loader import dump
from ragdist.errors import ConfigError, DataError, ModelError, Stopped
from ragdist.lm.checkpoints import MODEL
from ragdist.lm.tune import tune
from tests.training import lesson, losses, noted, settings, weights_hash

REPOSITORY = Path(__file__).parents[2]
SECRET = hashlib.sha256(str(REPOSITORY).encode()).hexdigest()
DRIVER = """
import sys
from pathlib import Path
from ragdist.cluster.train import RayTuner
from ragdist.config.loader import load
from ragdist.errors import RagdistError
from tests.training import lesson

made = load([sys.argv[1]])
try:
    print(RayTuner(made).tune([lesson(Path(sys.argv[2]), Path(sys.argv[3]), made)]))
except RagdistError as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(error.exit_code)
"""
LONG = {"workers": 2, "zero_stage": 2, "epochs": 30, "checkpoint_every": 5}
"""90 steps: workers outlive a killed driver by seconds, and must not finish in them."""


def train(made, examples, folder):
    """The tuned folder of a single lesson."""
    (tuned,) = RayTuner(made).tune([lesson(examples, folder, made)])
    return tuned


def wait_for_step(folder, step, *, longest_s=240.0):
    """Returns when the run has done `step` steps."""
    until = time.monotonic() + longest_s
    while time.monotonic() < until:
        if (folder / "metrics.jsonl").exists() and any(line["step"] >= step for line in noted(folder)):
            return
        time.sleep(0.05)
    raise TimeoutError(f"no step {step} in {folder}")


@pytest.fixture(scope="module")
def undisturbed(ray_here, model, examples, tmp_path_factory):
    """The folder of a run that nothing happened to, in an environment that holds a secret."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", SECRET)
        assert train(settings(model, **LONG), examples, folder) == folder / MODEL
    return folder


def test_two_ray_workers_train_as_this_process_alone(undisturbed, model, examples, tmp_path):
    tune(examples, tmp_path, settings(model, **{**LONG, "workers": 1, "epochs": 2}))
    assert losses(undisturbed)[0] == pytest.approx(losses(tmp_path)[0], abs=1e-6)
    assert losses(undisturbed)[-1] < losses(undisturbed)[0]
    assert [line["step"] for line in noted(undisturbed)] == list(range(1, 91))


def test_finished_run_returns_at_once_without_a_cluster(undisturbed, model, examples):
    start = time.monotonic()
    elsewhere = settings(model, cluster={"address": "192.0.2.1:6379"}, **LONG)
    assert train(elsewhere, examples, undisturbed) == undisturbed / MODEL
    assert time.monotonic() - start < 1


def test_run_folder_has_checkpoints_logs_and_no_secret(undisturbed):
    kept = {path.name for path in (undisturbed / "checkpoints").glob("checkpoint-*")}
    assert kept == {"checkpoint-85", "checkpoint-90"}
    logs = {path.name for path in (undisturbed / "logs").iterdir()}
    assert logs == {f"rank-{rank}.{kind}" for rank in (0, 1) for kind in ("log", "jsonl")}
    for path in undisturbed.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


def test_tuned_folder_loads_in_plain_transformers(undisturbed):
    code = (
        "import sys\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "ids = tokenizer('What is the default?', return_tensors='pt')\n"
        "print(model.generate(**ids, max_new_tokens=3, do_sample=False).shape[1] - ids['input_ids'].shape[1])\n"
        "assert 'ragdist' not in sys.modules\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(undisturbed / MODEL)], capture_output=True, text=True, cwd="/", timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert 1 <= int(run.stdout.split()[-1]) <= 3


def test_killed_worker_is_replaced_and_the_end_has_the_same_bits_check_72(
    undisturbed, model, examples, tmp_path, workers
):
    folder = tmp_path / "run"

    def kill():
        wait_for_step(folder, 8)
        workers()[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    train(settings(model, **LONG), examples, folder)
    killer.join()
    assert len(noted(folder, "workers_started")) == 2
    assert noted(folder, "train_start")[1]["step"] >= 5
    assert weights_hash(folder / MODEL) == weights_hash(undisturbed / MODEL)
    assert losses(folder) == losses(undisturbed)


def test_driver_stopped_then_killed_goes_on_and_the_end_has_the_same_bits_check_72(
    undisturbed, model, examples, tmp_path
):
    folder, yaml = tmp_path / "run", tmp_path / "settings.yaml"
    yaml.write_text(dump(settings(model, **LONG)))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}

    def start():
        command = [sys.executable, "-c", DRIVER, str(yaml), str(examples), str(folder)]
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    stopped = start()
    wait_for_step(folder, 3)
    stopped.send_signal(signal.SIGINT)
    said, progress = stopped.communicate(timeout=120)
    assert stopped.returncode == 130, progress
    assert said.startswith("Stopped: stopped after step") and "the same command goes on" in said
    assert "Traceback" not in progress and "Warning" not in progress
    saved = noted(folder)[-1]["step"]
    assert saved < 90 and (folder / "checkpoints" / f"checkpoint-{saved}" / "complete.json").exists()

    killed = start()
    wait_for_step(folder, max(saved + 1, 12))
    killed.kill()
    killed.communicate(timeout=60)
    assert not (folder / MODEL).exists()

    train(settings(model, **LONG), examples, folder)
    assert noted(folder, "train_start")[1]["step"] == saved
    assert noted(folder, "train_start")[2]["step"] >= 10
    assert weights_hash(folder / MODEL) == weights_hash(undisturbed / MODEL)


def test_stop_during_the_last_step_ends_the_call_and_the_next_goes_on(ray_here, model, examples, tmp_path):
    folder, short = tmp_path / "run", settings(model, **{**LONG, "epochs": 1})

    def interrupt():
        wait_for_step(folder, 3)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(Stopped, match=r"stopped after .* the same command goes on"):
        train(short, examples, folder)
    interrupter.join()
    assert not (folder / "stop").exists()
    assert train(short, examples, folder) == folder / MODEL


def test_error_of_a_worker_arrives_as_itself(ray_here, examples, tmp_path):
    with pytest.raises(ModelError, match="no-such-model"):
        train(settings(tmp_path / "no-such-model", **LONG), examples, tmp_path / "run")


def test_no_row_to_train_on_is_said_before_any_cluster(model, examples, tmp_path):
    with pytest.raises(ConfigError, match=r"24 training rows .* give no row"):
        train(settings(model, cluster={"address": "192.0.2.1:6379"}, epochs=0.01), examples, tmp_path)


def test_run_refuses_to_go_on_with_other_rows_or_workers(undisturbed, model, examples, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(undisturbed / "began.json", folder)
    with pytest.raises(ConfigError, match=r"cluster\.workers=2"):
        train(settings(model, **{**LONG, "workers": 1}), examples, folder)
    (tmp_path / "rows.jsonl").write_text(examples.read_text() + examples.read_text())
    with pytest.raises(DataError, match=r"run\.name"):
        train(settings(model, **LONG), tmp_path / "rows.jsonl", folder)
