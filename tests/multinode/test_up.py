"""`ray up` with the shipped file, from a laptop to a head and from the head to a worker.

The machines have no sshd and there may be no rsync here: commands named so lead into the namespace of an address. A
`ray stop`, which ends every Ray that it sees, ours or not, does nothing here.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.multinode.machines import IP, ROOT, SCRIPTS, Machines, impossible

pytestmark = [pytest.mark.multinode, pytest.mark.timeout(400)]
BIN = Path(sys.executable).parent
INTO = f"""#!/bin/bash
# `ssh [options] user@address command...`: the command on that machine, in a home and a /tmp/ray of its own.
while [[ $1 != *@* ]]; do shift; done
number=${{1##*.}}
shift
exec env -i HOME="$BASE/home-$number" PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin BASE="$BASE" NAME="$NAME" \\
  PYTHONPATH="{ROOT}" OMP_NUM_THREADS=1 RAY_worker_niceness=0 \\
  {IP} netns exec "$NAME-$number" sh -c 'mount --bind "$BASE/$0" /tmp/ray && cd && exec sh -c "$1"' "$number" "$*"
"""
COPY = """#!/bin/bash
# `rsync [options] source user@address:target`
set -e
source=${@: -2:1}
to=${@: -1}
home="$BASE/home-$(sed 's/.*\\.\\([0-9]*\\):.*/\\1/' <<< "$to")"
target=${to#*:}
target=${target/#\\~/$home}
if [ -d "$source" ]; then
  mkdir -p "$target"
  tar -C "$source" --exclude=.git --exclude=.venv --exclude=runs -cf - . | tar -C "$target" -xf -
else
  mkdir -p "$(dirname "$target")"
  cp -p "$source" "$target"
fi
"""
RAY = f"""#!/bin/bash
[ "$1" = stop ] || exec "{BIN}/ray" "$@"
"""
COUNT = (
    "import ray; ray.init(address='10.231.0.1:6379', log_to_driver=False); "
    "print(sum(node['Alive'] for node in ray.nodes()))"
)


def home(machines: Machines, number: int) -> Path:
    """The home of a machine, where `make install` has been already."""
    folder = machines.base / f"home-{number}"
    bin_ = folder / "ragdist" / ".venv" / "bin"
    bin_.mkdir(parents=True)
    for name, text in (("ssh", INTO), ("rsync", COPY), ("ray", RAY)):
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o755)
    (bin_ / "python").symlink_to(sys.executable)
    (bin_.parent / ".made").touch()
    (folder / ".bashrc").touch()
    return folder


@pytest.fixture
def notes():
    """Ray's notes about the cluster, which it keeps in /tmp/ray by the cluster's name, go with the test."""
    yield
    for left in Path("/tmp/ray").glob(f"cluster-rd{os.getpid()}-*"):
        left.unlink()


def test_ray_up_brings_the_hosts_of_the_shipped_file_up(tmp_path, notes):
    if why := impossible():
        pytest.skip(why)
    with Machines() as machines:
        head, worker = machines.boot(), machines.boot()
        laptop, *_ = (home(machines, number) for number in (0, head.number, worker.number))
        Path("/tmp/ray").mkdir(exist_ok=True)
        env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        env |= {"HOME": str(laptop), "BASE": str(machines.base), "NAME": machines.name}
        env |= {"PATH": f"{laptop / 'ragdist' / '.venv' / 'bin'}:{env['PATH']}"}
        subprocess.run(["bash", str(SCRIPTS / "make-token.sh")], env=env, check=True, timeout=10)
        given = yaml.safe_load((SCRIPTS / "hosts.yaml").read_text())
        given["cluster_name"] = machines.name  # Ray keeps notes by this name
        given["provider"] = {"type": "local", "head_ip": head.address, "worker_ips": [worker.address]}
        given["auth"] = {"ssh_user": "someone"}
        commands = given["head_start_ray_commands"]
        given["head_start_ray_commands"] = [command.replace("10.0.0.1", head.address) for command in commands]
        hosts = tmp_path / "hosts.yaml"
        hosts.write_text(yaml.safe_dump(given))
        up = [str(BIN / "ray"), "up", "-y", "--no-config-cache", str(hosts)]
        done = subprocess.run(up, env=env, cwd=ROOT, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        ask = ["ssh", f"someone@{head.address}", f'RAY_AUTH_MODE=token {BIN}/python -c "{COUNT}"']
        end, said = time.monotonic() + 120, ""
        while said.strip() != "2":
            if time.monotonic() > end:
                logs = (machines.base / str(head.number)).glob("session_2*/logs/monitor.*")
                pytest.fail("the worker did not join: " + "".join(log.read_text()[-6000:] for log in logs))
            said = subprocess.run(ask, env=env, capture_output=True, text=True, timeout=60).stdout
        for number in (head.number, worker.number):
            token = machines.base / f"home-{number}" / ".ray" / "auth_token"
            assert token.stat().st_mode & 0o777 == 0o600
            assert token.read_text() == (laptop / ".ray" / "auth_token").read_text()
