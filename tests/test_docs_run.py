"""README.md, docs/ and the READMEs of clusters/, typed from top to bottom in a folder with a pottery's documents.

What a command gets, by its name; one that is in no line fails:

RUN       runs as printed; a page's settings are written as settings.yaml, with `SMALL` over them
PLANNED   the real command line and settings, then `ragdist plan` on `NODES`, instead of hours or GPUs; README.md's own
          `train raft settings.yaml` runs whole
READ      the real command line alone: it needs a cluster that runs
OTHERS    programs that are not ours: their syntax alone (tests/test_docs.py)

And by the kind of block: `yaml` is loaded and planned, `python` runs, `json` and `jsonl` are read as questions, `text` is
not typed, `sh` runs in tests/test_your_documents.py. Ids of models on the hub are folders with the tiny model.
"""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from ragdist import cli, export, runs
from ragdist.config import Settings, loader
from ragdist.kube import client
from ragdist.plan import layout
from ragdist.sweeps import trials
from tests import handbook, hub, pages, tiny
from tests.kube.bundles import CRDS

NODES = "4x8xH100-80GB:128cpu:1024GB"
RUN = ("init", "build", "audit", "evaluate", "plan", "settings", "runs", "doctor", "export", "export-data")
RUN_ON_KUBERNETES = ("render", "check")
PLANNED = ("train", "sweep", "submit", "demo")
READ = ("answer", "status", "logs", "delete", "submit")
OTHERS = (
    *("cat", "docker", "done", "do", "eval", "export", "for", "helm", "hf", "kubectl", "mkdir", "pip", "ray", "ssh"),
    *("bash", "clusters/ray/start-head.sh", "clusters/ray/start-worker.sh", "tensorboard"),
)
ELSEWHERE = re.compile(r"(^|=)/(shared|mnt)/")
"""Data that lies on a cluster's storage: what would run is planned."""
SMALL = {
    "model": {"source": "tiny", "max_tokens": 1024, "dtype": "auto"},
    "chunks": {"tokens": 32, "overlap": 0},
    "contexts": {"documents": 3, "too_few": "fewer"},
    "train": {"epochs": 0.5, "examples_per_step": 4, "microbatch": 2},
    "cluster": {"workers": 1, "gpus_per_worker": 0},
    "evaluation": {"conditions": ["closed_book", "oracle"], "max_new_tokens": 4},
}
LLAMA = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
IDS = ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct", "Qwen/Qwen3-1.7B")


def job_of(values) -> str:
    """The system that these values are for: the one whose own block they have."""
    return next((job for job in ("atm", "duet") if job in values), "raft")


def planned(job: str, settings: Settings) -> None:
    """The plan of the job on `NODES`, refused as `train` refuses it."""
    if job.startswith("sweep-"):
        trials.check(job.removeprefix("sweep-"), settings)
    layout.check(runs.plan(settings, job.removeprefix("sweep-"), NODES))


def stand_ins(whole: bool) -> dict:
    """What `cli` and jobs/*.py call in place of hours of work, by module and name."""

    def ended(job):
        def stand_in(settings, *_, **__):
            planned(job, settings)
            raise typer.Exit

        return stand_in

    def demo(system, overrides):
        name = {"atm": "atm-tiny.yaml"}.get(system, f"{system}-demo.yaml")
        return ended(system)(loader.load([str(runs.settings_file(name)), *overrides]))

    def read(*_, **__):
        raise typer.Exit

    found = {(runs, job): ended(job) for job in ("atm", "duet")}
    found |= {} if whole else {(runs, "raft"): ended("raft")}
    found |= {(runs, "sweep"): lambda job, settings: ended(f"sweep-{job}")(settings), (runs, "demo"): demo}
    found |= {(runs, "submit"): lambda job, settings, *_, **__: ended(job)(settings), (runs, "answer"): read}
    return found | {(client, name): read for name in ("submit", "status", "logs", "delete")}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Documents and questions as people have them, the tiny model under every id, and what `init` makes of them."""
    here = tmp_path_factory.mktemp("home")
    handbook.write(here / "documents")
    (jsonl,) = (block for block in pages.blocks(pages.ROOT / "docs" / "your-documents.md") if block.kind == "jsonl")
    rows = [json.loads(line) for line in jsonl.text.splitlines()]
    (here / "questions.jsonl").write_text(jsonl.text)
    asked = "".join(f"{row['question']},{row['answers'][0]}\n" for row in rows for _ in range(1))
    (here / "questions.csv").write_text(f"question,answer\n{asked}")
    tiny.model_folder(here).rename(here / "tiny")
    for name in IDS:
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).symlink_to(here / "tiny")
    (here / "llama-2-7b").mkdir()
    shape = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, **LLAMA}
    (here / "llama-2-7b" / "config.json").write_text(json.dumps(shape | {"torch_dtype": "bfloat16"}))
    if CRDS.is_dir():
        (here / "crds").symlink_to(CRDS)
    return here


class Reader:
    """Somebody who types a page, in `home`."""

    def __init__(self, home, monkeypatch, capfd):
        self.home, self.monkeypatch, self.capfd = home, monkeypatch, capfd

    def write(self, text: str, name: str = "settings.yaml") -> None:
        """A settings file as a page has it, small."""
        values = yaml.safe_load(text)
        for key in ("teacher", "attacker", "generator", "kube"):
            values.pop(key, None)
        for block, small in SMALL.items():
            values[block] = {**values.get(block, {}), **small}
        (self.home / name).write_text(yaml.safe_dump(values))

    def block(self, block: pages.Block) -> None:
        """Does with the block what the table on top says."""
        if block.kind in ("bash", "console"):
            said = "".join(self.type(command) for command in pages.commands(block))
            shown = "".join(line for line in block.text.splitlines(True) if block.kind == "console" and line[0] != "$")
            for number in re.findall(r"(?<![\w.])(?:\d+\.\d\d|\d+(?:,\d{3})+)(?![\w.])", shown):
                assert number in said, f"{block.place}: {number} is printed on the page, not by the command"
        elif block.kind == "yaml":
            planned(job_of(yaml.safe_load(block.text)), loader.resolve(yaml.safe_load(block.text)))
            self.write(block.text)
        elif block.kind == "python":
            exec(compile(block.text, block.place, "exec"), {})
        elif block.kind in ("json", "jsonl"):
            rows = re.split(r"\n(?=\{)", block.text.strip())
            assert all({"question", "answers"} <= set(json.loads(row)) for row in rows), block.place
        else:
            assert block.kind in ("text", "sh") or block.kind.startswith("yaml title="), f"{block.place}: {block.kind}"

    def type(self, command: pages.Command) -> str:
        """What the line prints."""
        if command.written:
            name = command.parts[0][-1].removeprefix("> ")
            values = yaml.safe_load(command.written)
            planned(job_of(values), loader.resolve(values))
            (self.home / name).write_text(command.written)
        said = ""
        for words in command.parts:
            words = [word for word in words if not re.match(r"[A-Z_]+=", word)] or ["export"]
            program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
            if program == "ragdist":
                said += self.ragdist(command, rest)
            elif "python" in words:
                self.job(words[words.index("python") + 1 :])
            elif program == "make":
                targets = [word for word in rest if "=" not in word]
                subprocess.run(["make", "-n", *targets], cwd=pages.ROOT, check=True, capture_output=True, timeout=60)
            else:
                assert program in OTHERS, f"{command.place}: {program} is in no line of the table: {command.line}"
        return said

    def ragdist(self, command: pages.Command, words: list[str]) -> str:
        """Runs or plans the command; what it prints."""
        name = words[1] if words[0] == "k8s" else words[0]
        known = (*RUN_ON_KUBERNETES, *READ) if words[0] == "k8s" else (*RUN, *PLANNED, *READ)
        assert name in known, f"{command.place}: {name} is in no line of the table"
        if name == "check" and not CRDS.is_dir():
            pytest.skip(f"KubeRay's schemas are not at {CRDS}")
        whole = command.place.startswith("README.md")
        if name in RUN and any(ELSEWHERE.search(word) for word in words):
            planned("raft", loader.load([word for word in words[1:] if not word.startswith("-")]))
            return ""
        shutil.rmtree(self.home / "out", ignore_errors=True)
        with self.monkeypatch.context() as patch:
            for (module, attribute), stand_in in stand_ins(whole).items():
                patch.setattr(module, attribute, stand_in)
            with pytest.raises(SystemExit) as ended:
                cli.main(words)
        out, err = self.capfd.readouterr()
        wanted = {"doctor": (0, 1), "plan": (0, 2)}.get(name, (0,))
        assert (ended.value.code or 0) in wanted, f"{command.place}: {command.line}\n{err[-2000:]}"
        return out + err

    def job(self, words: list[str]) -> None:
        """A script of jobs/, up to where it would begin."""
        with self.monkeypatch.context() as patch:
            for (module, attribute), stand_in in stand_ins(whole=False).items():
                patch.setattr(module, attribute, stand_in)
            patch.setattr(sys, "argv", words)
            with pytest.raises((SystemExit, typer.Exit)) as ended:
                runpy.run_path(str(pages.ROOT / words[0]), run_name="__main__")
        assert not getattr(ended.value, "code", 0) and not getattr(ended.value, "exit_code", 0), words


@pytest.fixture
def reader(home, monkeypatch, capfd):
    """A reader at the first line of a page."""
    monkeypatch.chdir(home)
    for name in ("jobs", "clusters"):
        if not (home / name).exists():
            (home / name).symlink_to(pages.ROOT / name)
    found = Reader(home, monkeypatch, capfd)
    runs.init(["raft", "documents", "questions.csv"], "laptop", Path("settings.yaml"), force=True)
    found.write("run: {name: demo}\n" + Path("settings.yaml").read_text())
    return found


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_page_runs_as_it_is_printed(page, reader, monkeypatch):
    with hub.serving() as local:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", local.address)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        for block in pages.blocks(page):
            reader.block(block)
