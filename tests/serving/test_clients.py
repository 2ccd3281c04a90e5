"""LangChain's and LlamaIndex's own clients ask a served run; `make test-clients` makes their environment."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from ragdist import asking
from ragdist.serving.service import Query
from tests.serving.finished import raft_run
from tests.serving.listening import listening

PYTHON = Path(os.environ.get("RAGDIST_CLIENTS", Path(__file__).parents[2] / ".venv-clients")) / "bin" / "python"


@pytest.mark.skipif(not PYTHON.exists(), reason="no environment with the clients: `make test-clients`")
def test_clients_of_langchain_and_llamaindex_get_the_same_text(tmp_path):
    run, question, token = raft_run(tmp_path), "Which colour has ball 2?", "a-token"
    with asking.open_service(run) as service:
        expected = service.ask(Query(question=question)).result(60)
    with asking.served(run, (), token) as app, listening(app) as url:
        command = [PYTHON, Path(__file__).with_name("ask_by_clients.py"), f"{url}/v1", token, "tiny", question]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["said"].values()) == {expected.text} and len(found["said"]) == 5
    assert found["documents"] == [one.title for one in expected.documents] and found["tokens"] == expected.new_tokens
