"""The built wheel works in a fresh environment, from another folder."""

import json
import site
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Python of a fresh environment that holds the wheel, and sees our dependencies but not our checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, timeout=120)
    found = folder / "venv" / "bin" / "python"
    wheel = next(folder.glob("*.whl"))
    subprocess.run([found, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True, timeout=120)
    own = subprocess.run([found, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True)
    # A .pth line adds the folder without running the .pth files in it, so our editable install stays out of sight.
    (Path(own.stdout.strip()) / "dependencies.pth").write_text(site.getsitepackages()[0])
    return found


def run(python, *arguments, cwd):
    done = subprocess.run([python, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
