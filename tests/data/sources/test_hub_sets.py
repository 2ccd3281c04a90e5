"""A data set named on the hub, by the real clients against a small hub."""

import json
import os
import subprocess
import sys

import pytest

from ragdist.data.sources import hub_sets
from ragdist.errors import ConfigError
from tests.data.small_hub import SmallHub

COMMIT = "7b6d24c440a36b6815f21b70d25016731768db1f"
READ = """
import json, sys
from ragdist.data.sources import places
from ragdist.data.sources.files import Broken, rows
from ragdist.errors import ConfigError
try:
    print(json.dumps([row for _, row in rows(places.at(sys.argv[1]), Broken("stop", []))]))
except ConfigError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    for name in ("train", "test"):
        (folder / "plain").mkdir(parents=True, exist_ok=True)
        row = {
            "question": f"Which {name}?",
            "answers": {"text": [name], "answer_start": [0]},
            "context": f"It is {name}.",
        }
        (folder / "plain" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    card = "---\nconfigs:\n- config_name: plain\n  data_files:\n"
    card += "".join(f"  - split: {name}\n    path: plain/{name}.jsonl\n" for name in ("train", "test"))
    (folder / "README.md").write_text(card + "- config_name: other\n  data_files: plain/test.jsonl\n---\n")
    (folder / "squad.py").write_text("raise SystemExit('run')")
    return folder


def read(address, hub, tmp_path, **more):
    """The rows, or the error, in a process of its own: the clients read their variables once."""
    own = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", **more}
    done = subprocess.run(
        [sys.executable, "-c", READ, address], env=os.environ | own, capture_output=True, text=True, timeout=120
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_rows_and_splits_of_a_configuration_then_offline(repository, tmp_path):
    """U2"""
    with SmallHub("owner/rivers", repository, COMMIT) as hub:
        found = read("hf://owner/rivers/plain", hub, tmp_path)
        assert [(row["split"], row["question"]) for row in found] == [
            ("train", "Which train?"),
            ("test", "Which test?"),
        ]
        assert found == read("hf://datasets/owner/rivers/plain@main", hub, tmp_path)
        assert "squad.py" not in hub.sent
    assert read("hf://owner/rivers/plain", hub, tmp_path, HF_HUB_OFFLINE="1") == found


def test_what_is_not_there_or_is_not_chosen_is_one_line(repository, tmp_path):
    with SmallHub("owner/rivers", repository, COMMIT) as hub:
        assert "['plain', 'other']" in (told := read("hf://owner/rivers", hub, tmp_path)) and "\n" not in told
        told = read("hf://owner/nothing", hub, tmp_path)
    assert told.startswith("corpus.questions=hf://owner/nothing: the data set cannot be had") and "\n" not in told


@pytest.mark.parametrize("address", ["hf://", "hf://name", "hf://a/b/c/d", "hf://a b/c"])
def test_what_names_no_data_set(address):
    with pytest.raises(ConfigError, match="wanted hf://owner/name"):
        hub_sets.folder_of(address)
