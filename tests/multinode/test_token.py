"""Nobody joins without the token: no driver, no machine."""

import secrets

import pytest

from tests.multinode import drivers
from tests.multinode.machines import SCRIPTS

pytestmark = [pytest.mark.multinode, pytest.mark.timeout(300)]


@pytest.fixture
def wrong(tmp_path):
    """A token of another cluster."""
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    return {"RAY_AUTH_TOKEN_PATH": str(token)}


def test_driver_with_another_token_is_refused(undisturbed, machines, wrong):
    head = machines.all[0]
    settings = drivers.raft(undisturbed.folder, undisturbed.model, "raft-refused", head)
    driver = drivers.start("raft", settings, head, undisturbed.folder, **wrong)
    assert driver.process.wait(90) == 2
    assert "does not let this process in" in driver.said() and "RAY_AUTH_MODE" in driver.said()


def test_machine_with_another_token_is_refused(machines, wrong, tmp_path):
    stranger = machines.boot()
    command = [str(SCRIPTS / "start-worker.sh"), machines.all[0].address, f"--temp-dir={machines.tmp}", "--num-cpus=1"]
    log = tmp_path / "log"
    assert stranger.run(command, log, TRIES="1", **wrong).wait(100) == 2
    assert "Ray ended 1 times" in log.read_text() and "runtime started" not in log.read_text()
