"""README.md, docs/ and the READMEs of clusters/, typed from top to bottom in a folder with a pottery's documents.

What a command gets, by its name; one that is in no line fails:

RUN       runs as printed, on the page's last settings (or what `init` wrote) with `SMALL` over them; exports go to a
          hub of our own
PLANNED   the real command line and the settings as printed, then `ragdist plan` on `NODES`, instead of hours or GPUs;
          README.md's own `train raft` runs whole, tuned in this process
READ      the real command line alone: it needs a cluster that runs
OTHERS    programs that are not ours: that a shell can read them, and that files of jobs/ and clusters/ exist

And by kind: blocks of `bash`, `console` and without a language are typed, `yaml` is loaded and planned, `python`
runs, `json` and `jsonl` are read as questions, `text` is not typed, `sh` runs in tests/test_your_documents.py.
"""

import json
import re
import runpy
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer
import yaml

from ragdist import asking, cli, planning, runs
from ragdist.config import Settings, loader
from ragdist.kube import client
from ragdist.plan import layout
from ragdist.sweeps import trials
from tests import handbook, hub, pages, tiny
from tests.kube.bundles import CRDS
from tests.systems.duet.test_run import LocalTuner

MACHINES = "2x8xH100-80GB:128cpu:1024GB"
NODES = f"{MACHINES}:group=attacker,{MACHINES}:group=generator"
RUN = ("init", "build", "audit", "evaluate", "plan", "settings", "runs", "doctor", "export", "export-data", "report")
RUN += ("attacks", "gate", "matrix")
RUN_ON_KUBERNETES = ("render", "check")
PLANNED = ("train", "sweep", "submit", "demo")
READ = ("reproduce", "answer", "chat", "serve", "status", "logs", "delete", "submit")
OTHERS = (
    *(
        ".",
        "cat",
        "cd",
        "docker",
        "done",
        "do",
        "eval",
        "export",
        "for",
        "git",
        "helm",
        "hf",
        "kubectl",
        "mkdir",
        "mkdocs",
    ),
    *("apt-get", "bash", "brew", "clusters/ray/start-head.sh", "clusters/ray/start-worker.sh", "pip", "python"),
    *("python3.11", "ray", "ssh", "sudo", "tensorboard", "wsl"),
)
ELSEWHERE = re.compile(r"(^|=)/(shared|mnt)/")
"""Data that lies on a cluster's storage: what would run is planned."""
ENDPOINT = "https://host/"
"""Of nobody: tests/serving/test_answering.py and tests/evaluation/test_service.py ask one that is there."""
SMALL = {
    "model": {"source": "tiny", "max_tokens": 1024, "dtype": "float32"},
    "retrieval": {"kind": "bm25"},
    "chunks": {"tokens": 32, "overlap": 0},
    "contexts": {"documents": 3, "too_few": "fewer"},
    "train": {"epochs": 1, "examples_per_step": 2, "microbatch": 2, "zero_stage": 0},
    "cluster": {"workers": 1, "gpus_per_worker": 0, "cpus_per_worker": 0},
    "evaluation": {"conditions": ["closed_book", "oracle", "permuted", "attacked"], "max_new_tokens": 4},
}
LLAMA = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}


def job_of(values) -> str:
    """The system that these values are for: the one whose own block they have."""
    return next((job for job in ("atm", "duet") if job in values), "raft")


def planned(job: str, settings: Settings) -> None:
    """The plan of the job on `NODES`, refused as `train` refuses it."""
    if job.startswith("sweep-"):
        trials.check(job.removeprefix("sweep-"), settings.sweep, settings.evaluation)
    layout.check(planning.plan(settings, job.removeprefix("sweep-"), NODES))


@contextmanager
def stand_ins(whole: bool):
    """What `cli` and jobs/*.py call in place of hours of work, by module and name."""

    def ended(job):
        def stand_in(settings, *_, **__):
            planned(job, settings)
            raise typer.Exit

        return stand_in

    def asked_of(*_):
        raise typer.Exit

    def read(asked, *_, **__):
        assert not isinstance(asked, Path) or (asked / "job.yaml").exists() or (asked / "service.yaml").exists()
        raise typer.Exit

    with pytest.MonkeyPatch.context() as patch:
        for job in ("atm", "duet", *(["raft"] * (not whole))):
            patch.setattr(runs, job, ended(job))
        patch.setattr(runs, "sweep", lambda job, settings: ended(f"sweep-{job}")(settings))
        patch.setattr(runs, "submit", lambda job, settings, *_, **__: ended(job)(settings))
        patch.setattr(
            runs,
            "reproduce",
            lambda table, _: asked_of(loader.load_table(runs.settings_file(f"{table}.yaml", "tables"))),
        )
        for name in ("answer", "chat", "serve"):
            patch.setattr(asking, name, asked_of)
        patch.setattr(client, "Cluster", str)
        for name in ("submit", "status", "logs", "delete"):
            patch.setattr(client, name, read)
        yield


def small(text: str) -> str:
    """Settings as a page has them, of seconds: no teacher, the tiny model, few of everything."""
    values = yaml.safe_load(text)
    for key in ("teacher", "attacker", "generator", "kube"):
        values.pop(key, None)
    for block, few in SMALL.items():
        values[block] = {**values.get(block, {}), **few}
    return yaml.safe_dump(values)


def squad(kiln: str, cups: str) -> dict:
    """A row as the data set on the page has them."""
    said = f"The {kiln} holds {cups} cups."
    answers = {"text": [cups], "answer_start": [said.index(f"{cups} cups")]}
    return {"question": f"How many cups does the {kiln} hold?", "answers": answers, "context": said}


def write_documents(here: Path) -> None:
    """Documents and questions as people have them, and a data set of the hub."""
    handbook.write(here / "documents")
    (jsonl,) = (block for block in pages.blocks(pages.ROOT / "docs" / "your-documents.md") if block.kind == "jsonl")
    (here / "questions.jsonl").write_text(jsonl.text)
    asked = [json.loads(line) for line in jsonl.text.splitlines()]
    rows = "".join(f"{row['question']},{row['answers'][0]},{row['split']}\n" for row in asked)
    (here / "questions.csv").write_text(f"question,answer,split\n{rows}")
    (here / "repository").mkdir()
    for split in ("train", "test"):
        rows = [squad(f"{split} kiln {n}", str(340 + n)) for n in range(4)]
        (here / "repository" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_models(here: Path) -> None:
    """The tiny model, also under the ids of the hub that are asked; the shape of Llama 2, all that a plan needs."""
    tiny.model_folder(here).rename(here / "tiny")
    printed = "".join(block.text for page in pages.PAGES for block in pages.blocks(page))
    for name in set(re.findall(r"--model \S+=([\w.-]+/[\w.-]+)(?=\s)", printed)):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).symlink_to(here / "tiny")
    (here / "llama-2-7b").mkdir()
    shape = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, **LLAMA}
    (here / "llama-2-7b" / "config.json").write_text(json.dumps(shape | {"torch_dtype": "bfloat16"}))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A reader's folder, with finished runs: demo, mine (the same) and lora, whose adapter is not merged."""
    here = tmp_path_factory.mktemp("home")
    write_documents(here)
    write_models(here)
    for name in ("jobs", "clusters"):
        (here / name).symlink_to(pages.ROOT / name)
    if CRDS.is_dir():
        (here / "crds").symlink_to(CRDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr("ragdist.cluster.train.RayTuner", LocalTuner)
        patch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(here / "repository"))
        patch.setattr("huggingface_hub.constants.HF_HOME", str(here / "hf"))
        patch.setattr("datasets.config.HF_DATASETS_CACHE", here / "hf")
        runs.init(["raft", "documents", "questions.csv"], "8xH100", Path("init.yaml"))
        Path("settings.yaml").write_text(small(Path("init.yaml").read_text()))
        for more in (["run.name=demo"], ["run.name=lora", "train.lora.rank=2", "train.lora.merge=false"]):
            runs.raft(loader.load(["settings.yaml", *more]))
        (here / "runs" / "mine").symlink_to("demo")
        yield here


class Reader:
    """Somebody who types a page, in `home`."""

    def __init__(self, home, capfd):
        self.home, self.capfd = home, capfd
        self.file = home / "settings.yaml"
        self.printed = (home / "init.yaml").read_text()
        """The settings that the page is about, as it has them."""

    def block(self, block: pages.Block) -> None:
        """Does with the block what the table on top says."""
        if block.kind in pages.TYPED:
            self.typed(block)
        elif block.kind == "yaml":
            planned(job_of(yaml.safe_load(block.text)), loader.resolve(yaml.safe_load(block.text)))
            self.printed = block.text
        elif block.kind == "python":
            self.file.write_text(small(self.printed))
            shutil.rmtree(self.home / "out", ignore_errors=True)
            exec(compile(block.text, block.place, "exec"), {})
        elif block.kind in ("json", "jsonl"):
            rows = re.split(r"\n(?=\{)", block.text.strip())
            assert all({"question", "answers"} <= set(json.loads(row)) for row in rows), block.place
        else:
            assert block.kind in ("text", "sh") or block.kind.startswith("yaml title="), f"{block.place}: {block.kind}"

    def typed(self, block: pages.Block) -> None:
        """Types the commands; the figures that a `console` block shows are those that are printed."""
        said = "".join(self.type(command, block.kind == "console") for command in pages.commands(block))
        shown = "".join(line for line in block.text.splitlines(True) if block.kind == "console" and line[0] != "$")
        for number in re.findall(r"(?<![\w.])(?:\d+\.\d\d|\d+(?:,\d{3})+)(?![\w.])", shown):
            assert number in said, f"{block.place}: {number} is printed on the page, not by the command"

    def type(self, command: pages.Command, refusal: bool) -> str:
        """What the line prints; `refusal` where the page may show that a plan is refused."""
        bash = subprocess.run(["bash", "-n", "-c", command.line], capture_output=True, text=True, timeout=60)
        bare = re.sub(r"'[^']*'", "", command.line.partition("  #")[0])
        assert not bash.returncode and "`" not in bare, f"{command.place}: {command.line}: {bash.stderr}"
        if command.written:
            values = yaml.safe_load(command.written)
            planned(job_of(values), loader.resolve(values))
            (self.home / command.target).write_text(command.written)
        return "".join(self.part(command, words, refusal) for words in command.parts)

    def part(self, command: pages.Command, words: list[str], refusal: bool) -> str:
        """What one command of the line prints."""
        words = [word for word in words if not re.match(r"[A-Z_]+=", word)] or ["export"]
        program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
        if program == "ragdist":
            return self.ragdist(command, rest, refusal)
        after = words[words.index("python") + 1 :] if "python" in words else []
        if after and after[0].endswith(".py"):
            self.job(after)
        elif program == "make":
            targets = [word for word in rest if "=" not in word]
            subprocess.run(["make", "-n", *targets], cwd=pages.ROOT, check=True, capture_output=True, timeout=60)
        else:
            assert program in OTHERS, f"{command.place}: {program} is in no line of the table: {command.line}"
            for path in (word for word in words if word.startswith(("jobs/", "clusters/"))):
                assert (pages.ROOT / path).exists(), f"{command.place}: no {path} in: {command.line}"
        return ""

    def ragdist(self, command: pages.Command, words: list[str], refusal: bool) -> str:
        """Runs or plans the command; what it prints."""
        on_kubernetes = words[0] == "k8s"
        name = words[1] if on_kubernetes else words[0]
        known = (*RUN_ON_KUBERNETES, *READ) if on_kubernetes else (*RUN, *PLANNED, *READ)
        assert name in known, f"{command.place}: {name} is in no line of the table"
        if name in RUN and any(ELSEWHERE.search(word) for word in words):
            planned("raft", loader.load([word for word in words[1:] if not word.startswith("-")]))
            return ""
        if any(ENDPOINT in word for word in words):
            return ""
        if not CRDS.is_dir():
            words = words[: words.index("--crds")] if "--crds" in words else words
        whole = command.place.startswith("README.md") and words[:2] == ["train", "raft"]
        self.file.write_text(small(self.printed) if whole or name not in PLANNED else self.printed)
        shutil.rmtree(self.home / "out", ignore_errors=True)
        if name == "init":
            self.file.unlink()
        with stand_ins(whole), pytest.raises(SystemExit) as ended:
            cli.main(words)
        if name == "init":
            self.printed = self.file.read_text()
        out, err = self.capfd.readouterr()
        wanted = {
            "doctor": (0, 1),
            "gate": (0, 1),
            "plan": (0, 2 * refusal),
            "check": (0 if "--crds" in words else 3,),
        }.get(name, (0,))
        assert (ended.value.code or 0) in wanted, f"{command.place}: {command.line}\n{err[-2000:]}"
        return out + err

    def job(self, words: list[str]) -> None:
        """A script of jobs/, up to where it would begin."""
        self.file.write_text(self.printed)
        with stand_ins(whole=False), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words)
            with pytest.raises((SystemExit, typer.Exit)) as ended:
                runpy.run_path(str(pages.ROOT / words[0]), run_name="__main__")
        assert not getattr(ended.value, "code", 0) and not getattr(ended.value, "exit_code", 0), words


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_page_runs_as_it_is_printed(page, home, monkeypatch, capfd):
    reader = Reader(home, capfd)
    with hub.serving() as local:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", local.address)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        for block in pages.blocks(page):
            reader.block(block)
