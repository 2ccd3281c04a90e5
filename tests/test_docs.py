"""Documentation that is made from code is current, and what it names is there; tests/test_docs_run.py runs it."""

import re
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from ragdist import cli
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


PAGES = [
    *("README.md", "CHANGELOG.md", "clusters/README.md"),
    *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md")),
]


def typed(line: str) -> None:
    """Holds a command inside a sentence to the commands, options and settings that there are."""
    command, words = typer.main.get_command(cli.app), line.split()[1:]
    while words and hasattr(command, "commands"):
        if not re.fullmatch(r"[a-z0-9-]+", words[0]):
            break
        assert words[0] in command.commands, f"no such command: {line}"
        command = command.commands[words.pop(0)]
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}
    known = {key for key, *_ in loader.describe()}
    for word in words:
        key, equals, _ = word.strip("[]'\"").partition("=")
        if key.startswith("-"):
            assert key in options, f"no such option: {key} in {line}"
        elif equals and re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", key):
            assert key in known, f"no such setting: {key} in {line}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_inside_sentences_are_there(page):
    text = re.sub(r"^ *```.*?^ *```$", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    for line in re.findall(r"`((?:\.venv/bin/)?ragdist [^`]+)`", text):
        typed(re.sub(r"[{}|]", " ", line.partition("  #")[0]) if "|" not in line else line.partition("|")[0])


def test_a_command_that_is_not_there_is_found():
    for line in ("ragdist trian raft", "ragdist plan --node x", "ragdist train raft train.epochz=2"):
        with pytest.raises(AssertionError, match="no such"):
            typed(line)


@pytest.mark.parametrize(
    "page", ["README.md", "clusters/README.md", *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
)
def test_pages_name_files_and_settings_that_exist(page):
    text = (ROOT / page).read_text()
    for path in re.findall(r"\]\((?!http|#)([^)#]+)", text):
        assert ((ROOT / page).parent / path).exists(), f"{page} links to {path}"
    known = {key for key, *_ in loader.describe()} | functions()
    known |= {key.rpartition(".")[0] for key in known}
    for key in re.findall(
        r"`((?:contexts|train|cluster|evaluation|questions|prompts|corpus|retrieval|teacher|chunks)\.(?!jsonl|csv)[\w.]+)`",
        text,
    ):
        assert key in known, f"{page} speaks of {key}"


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
