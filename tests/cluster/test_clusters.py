"""What `clusters/` holds, as far as one machine can tell; `tests/multinode` runs the scripts on several."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "clusters"
HOSTS = CLUSTERS / "ray" / "hosts.yaml"


@pytest.fixture
def here(tmp_path):
    """(folder, environment) with a `ray` that says how it was called, for a person with an empty home."""
    ray = tmp_path / "bin" / "ray"
    ray.parent.mkdir()
    ray.write_text('#!/bin/bash\necho "$RAY_AUTH_MODE $RAY_AUTH_TOKEN_PATH $RAY_JOB_STOP_WAIT_TIME_S"; echo "$@"\n')
    ray.chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return tmp_path, clean | {"HOME": str(tmp_path), "PATH": f"{ray.parent}:{os.environ['PATH']}"}


def run(script: str, *words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(CLUSTERS / "ray" / script), *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def test_hosts_file_is_one_that_ray_up_takes():
    given = yaml.safe_load(HOSTS.read_text())
    config = prepare_config(given)
    validate_config(config)
    (node,) = config["available_node_types"].values()
    assert node["min_workers"] == node["max_workers"] == 2
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"], *config["setup_commands"]]
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True, timeout=10)
        for path in re.findall(r"~/ragdist/(clusters/\S+)", command):
            assert (ROOT / path).exists()
    assert f"start-head.sh {config['provider']['head_ip']} " in config["head_start_ray_commands"][1]
    for path in config["file_mounts"].values():
        assert path == "~/.ray/auth_token" or (ROOT / path).is_dir()


def test_a_wrong_key_in_the_hosts_file_would_be_seen():
    given = yaml.safe_load(HOSTS.read_text()) | {"worker_start_comands": []}
    with pytest.raises(Exception, match="worker_start_comands"):
        validate_config(prepare_config(given))


def test_head_makes_the_token_for_its_owner_alone_and_binds_the_dashboard_to_itself(here):
    home, env = here
    done = run("start-head.sh", "10.0.0.1", "--num-cpus=0", env=env)
    assert done.returncode == 0, done.stderr
    token = home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600 and re.fullmatch("[0-9a-f]{64}", token.read_text())
    about, options = done.stdout.splitlines()
    assert about == f"token {token} 300"
    assert options.startswith("start --head --node-ip-address=10.0.0.1 --port=6379 --dashboard-host=127.0.0.1")
    assert options.endswith("--block --num-cpus=0")
    assert token.read_text() not in done.stdout + done.stderr
    kept = token.read_text()
    run("start-head.sh", "10.0.0.1", env=env)
    assert token.read_text() == kept


def test_labels_are_found_by_the_machines_address(here):
    home, env = here
    labels = home / "labels.txt"
    labels.write_text("# 10.0.0.1 group=never\n10.0.0.11 group=other\n10.0.0.1 group=generator,zone=a\n")
    done = run("start-head.sh", "10.0.0.1", env=env | {"LABELS_FILE": str(labels), "DETACH": "1"})
    assert " --labels=group=generator,zone=a" in done.stdout and "--block" not in done.stdout
    assert "--labels" not in run("start-head.sh", "10.0.0.2", env=env | {"LABELS_FILE": str(labels)}).stdout


def test_a_token_that_others_can_read_or_that_is_missing_is_refused(here):
    home, env = here
    missing = run("start-worker.sh", "127.0.0.1", env=env)
    assert missing.returncode == 2 and "no token in" in missing.stderr
    run("make-token.sh", env=env)
    (home / ".ray" / "auth_token").chmod(0o640)
    for script in ("start-head.sh", "start-worker.sh"):
        done = run(script, "127.0.0.1", env=env)
        assert done.returncode == 2 and "chmod 600" in done.stderr and not done.stdout


def test_scripts_say_what_they_want(here):
    for script in ("start-head.sh", "start-worker.sh"):
        done = run(script, "--num-cpus=0", env=here[1])
        assert done.returncode == 2 and "10.0.0.1" in done.stderr


def test_worker_gives_up_on_a_head_that_does_not_answer(here):
    env = here[1] | {"HEAD_WAIT_S": "1"}
    run("make-token.sh", env=env)
    done = run("start-worker.sh", "127.0.0.77", env=env)
    assert done.returncode == 2 and "127.0.0.77:6379 did not answer for 1 s" in done.stderr


def test_image_is_made_by_the_makefile_for_a_user_that_is_not_root():
    text = (CLUSTERS / "Dockerfile").read_text()
    assert text.count("make install") == 2 and "pip install" not in text
    assert re.findall(r"^USER (.*)$", text, re.M)[-1] == "1000:1000"
    assert all(":" in image for image in re.findall(r"^FROM (\S+)", text, re.M))
    extras = re.search(r"EXTRAS=(\S+)", text)
    settings = (ROOT / "pyproject.toml").read_text()
    for extra in extras.group(1).split(","):
        assert re.search(rf"^{extra} = \[", settings, re.M), extra


def test_image_gets_what_its_file_copies_and_nothing_else():
    """A copy that .dockerignore keeps out would fail the build; a token or a run would go to everyone."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule[0] == "!"}
    copied = {
        path
        for line in re.findall(r"^COPY (?!--from)(.*)$", (CLUSTERS / "Dockerfile").read_text(), re.M)
        for path in line.split()[:-1]
    }
    assert {path if path in let_in else path.split("/")[0] for path in copied} == let_in
    assert all((ROOT / path).exists() for path in copied)


def test_cuda_build_of_torch_takes_the_place_of_the_cpu_one():
    """The same edit in the image, over ssh and by `make install TORCH=cuda`; it leaves a version that the index has."""
    pin = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.M)
    assert "make install TORCH=cuda" in (CLUSTERS / "README.md").read_text()
    (made,) = re.findall(r"filter cuda,\$\(TORCH\)\),(s/\S+?/)\)'", (ROOT / "Makefile").read_text())
    edits = {"Makefile": made.replace("$$", "$")}
    for name in ("Dockerfile", "ray/hosts.yaml"):
        (edits[name],) = re.findall(r"sed -i '(s/\S+/)'", (CLUSTERS / name).read_text())
    for name, edit in edits.items():
        done = subprocess.run(["sed", edit], input=pin.group(), capture_output=True, text=True, timeout=10)
        assert re.fullmatch(r"torch==\d+\.\d+\.\d+", done.stdout.strip()), name
