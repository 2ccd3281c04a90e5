"""Documentation that is made from code is current, and what it shows loads."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from ragdist.config import loader

ROOT = Path(__file__).parents[1]


def test_settings_page_is_current():
    assert (ROOT / "docs" / "settings.md").read_text() == loader.markdown(), "run `make docs`"


def test_hooks_before_a_commit_watch_files_that_exist():
    """A pattern that matches nothing is a hook that never runs."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for pattern in (part for hook in local["hooks"] for part in hook.get("files", "").split("|") if part):
        assert any(re.search(pattern, name) for name in tracked), f"{pattern} matches no file"


def test_every_setting_has_a_sentence():
    for key, _, _, sentence in loader.describe():
        assert sentence.endswith(".") and len(sentence) > 15, key


@pytest.mark.parametrize("path", sorted((ROOT / "jobs" / "settings").glob("*.yaml")), ids=lambda path: path.name)
def test_settings_file_loads(path):
    assert loader.load([str(path)]) != loader.Settings()


@pytest.mark.parametrize(
    "page", ["README.md", "clusters/README.md", *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
)
def test_pages_name_files_settings_and_yaml_that_exist(page):
    text = (ROOT / page).read_text()
    for path in re.findall(r"\]\((?!http|#)([^)#]+)", text):
        assert ((ROOT / page).parent / path).exists(), f"{page} links to {path}"
    for block in re.findall(r"```yaml\n(.*?)```", text, re.S):
        loader.resolve(yaml.safe_load(block))
    known = {key for key, *_ in loader.describe()} | functions()
    known |= {key.rpartition(".")[0] for key in known}
    for key in re.findall(
        r"`((?:contexts|train|cluster|evaluation|questions|prompts|corpus|retrieval|teacher|chunks)\.(?!jsonl)[\w.]+)`",
        text,
    ):
        assert key in known, f"{page} speaks of {key}"


PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "clusters").rglob("README.md")])
STARTS = (
    "$ ",
    "ragdist ",
    ".venv/bin/",
    "make ",
    "ray ",
    "kubectl ",
    "python ",
    "bash ",
    "hf ",
    "docker ",
    "helm ",
    "ssh ",
)


def commands():
    """(page, command) of everything that a page prints to be typed, lines that end in a backslash joined."""
    for page in PAGES:
        for kind, block in re.findall(r"```(\w*)[^\n]*\n(.*?)```", page.read_text(), re.S):
            for line in block.replace("\\\n", " ").splitlines() if kind in ("", "bash", "sh") else ():
                if line.startswith(STARTS):
                    yield page.relative_to(ROOT), line.removeprefix("$ ")


def test_printed_commands_say_to_a_shell_what_they_say_to_a_reader():
    """U12: the shell ran what stood in backticks within double quotes."""
    said = list(commands())
    assert len(said) > 50
    for page, line in said:
        found = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True, timeout=10)
        assert not found.returncode, f"{page}: {line}: {found.stderr}"
        bare = re.sub(r"'[^']*'", "", line.partition("   #")[0])
        assert "`" not in bare and "$(" not in bare, f"{page}: the shell runs a part of: {line}"


def test_printed_commands_name_settings_and_files_that_exist():
    """U12: what a page prints can be typed as it stands, but for what it tells the reader to write first."""
    known = {key for key, *_ in loader.describe()}
    for page, line in commands():
        words = shlex.split(line, comments=True)
        for key in (word.partition("=")[0] for word in words if re.match(r"[a-z_]+\.[a-z_.]+=", word)):
            assert key in known or re.search(r"\.(yaml|md|com)", key), f"{page}: no setting {key} in: {line}"
        for path in (word for word in words if word.startswith(("jobs/", "clusters/")) and "kuberay/base" not in word):
            assert (ROOT / path).exists(), f"{page}: no {path} in: {line}"


def test_kinds_of_settings_are_words():
    """U12: settings.md showed the inside of pydantic for `duet.margin`."""
    kinds = {key: kind for key, kind, _, _ in loader.describe()}
    assert kinds["duet.margin"] == "float or [validation]" and kinds["atm.rounds"] == "int"
    assert not [kind for kind in kinds.values() if re.search("Annotated|Union|FieldInfo|NoneType|ragdist", kind)]


def functions() -> set[str]:
    """`module.function` of everything in the package."""
    found = set()
    for path in (ROOT / "ragdist").rglob("*.py"):
        found |= {f"{path.stem}.{name}" for name in re.findall(r"^(?:def|class) (\w+)", path.read_text(), re.M)}
    return found
