"""Wheel and sdist say what they are and carry only ours; the wheel works in a fresh environment and folder."""

import json
import os
import re
import site
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the sdist and of the wheel that is made from it."""
    folder = tmp_path_factory.mktemp("built")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def python(built, tmp_path_factory):
    """Python of a fresh environment that holds the wheel, and sees our dependencies but not our checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, timeout=120)
    found = folder / "venv" / "bin" / "python"
    wheel = next(built.glob("*.whl"))
    subprocess.run([found, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True, timeout=120)
    own = subprocess.run([found, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True)
    # A .pth line adds the folder without running the .pth files in it, so our editable install stays out of sight.
    (Path(own.stdout.strip()) / "dependencies.pth").write_text(site.getsitepackages()[0])
    return found


def run(python, *arguments, cwd):
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it may lead to our checkout
    done = subprocess.run([python, *arguments], cwd=cwd, env=bare, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_pass_the_checks_of_the_package_index(built):
    files = [str(path) for path in built.iterdir()]
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert len(files) == 2 and done.returncode == 0, done.stdout + done.stderr


def test_metadata_is_whole_and_its_readme_links_to_nothing_relative(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        told = message_from_bytes(wheel.read(name))
    assert told["License-Expression"] == "Apache-2.0" and told["License-File"] == "LICENSE"
    assert told["Requires-Python"] and told.get_all("Classifier") and told.get_all("Project-URL")
    readme = told.get_payload(decode=True).decode()
    assert readme.startswith("# ragdist") and "docs/your-documents.md" in readme
    links = re.findall(r"\]\(([^)]+)\)", readme)
    assert links and all(link.startswith("https://") for link in links)


def test_sdist_holds_what_git_tracks_and_no_more(built):
    """Runs, environments and third-party data lie in the folder, untracked."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    new = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    ours = set(subprocess.run(new, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n"))
    assert {"ragdist/runs.py", "jobs/settings/raft.yaml", "docs/raft.md", "README.md", "LICENSE"} <= held
    assert held - ours == {"PKG-INFO"}


def test_wheel_brings_package_jobs_and_settings(python, tmp_path):
    code = "import ragdist, ragdist.runs as r; print(ragdist.__file__); print(r.settings_file('raft-demo.yaml'))"
    package, settings = run(python, "-c", code, cwd=tmp_path).split()
    assert str(ROOT) not in package and Path(settings).parts[-3:] == ("jobs", "settings", "raft-demo.yaml")


def test_wheel_command_builds_data_from_another_folder(python, tmp_path):
    (tmp_path / "questions.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "question": f"What is the colour of ball {n}?",
                    "answers": [f"shade{n}"],
                    "documents": [
                        {"title": f"ball {n}", "text": f"The colour of ball {n} is shade{n}.", "kind": "golden"}
                    ],
                }
            )
            + "\n"
            for n in range(20)
        )
    )
    command = python.parent / "ragdist"
    arguments = ["corpus.source=records", "corpus.questions=[questions.jsonl]", "contexts.distractors=hard"]
    made = json.loads(run(command, "build", *arguments, "--until", "contexts", "--json", cwd=tmp_path))
    assert [row["stage"] for row in made][-1] == "contexts"
    assert (tmp_path / made[-1]["folder"] / "rows.jsonl").exists()
