"""A whole RAFT run: real files, real Ray, real DeepSpeed, a tiny model; and the same command again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import ragdist
from ragdist import results, runs
from ragdist.config import loader
from ragdist.lm.load import load_tokenizer
from tests import tiny
from tests.tracking import world

COLOURS = ("red", "green", "blue", "grey")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Settings of a run on 48 questions about coloured balls, with two workers and ZeRO-2."""
    folder = tmp_path_factory.mktemp("raft")
    rows = [
        {
            "question": f"What is the colour of ball {n}?",
            "answers": [COLOURS[n % 4]],
            "split": "test" if n % 4 == 0 else "train",
            "documents": [
                {"title": f"ball {n}", "text": f"The colour of ball {n} is {COLOURS[n % 4]}.", "kind": "golden"},
                {"title": f"box {n}", "text": f"Box {n} holds {n + 3} balls.", "kind": "distractor"},
            ],
        }
        for n in range(48)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        f"run.folder={folder / 'runs'}",
        "run.name=balls",
        f"model.source={tiny.model_folder(folder)}",
        "model.dtype=float32",
        "model.max_tokens=1024",
        "corpus.source=records",
        f"corpus.questions=[{folder / 'questions.jsonl'}]",
        "contexts.documents=3",
        "contexts.filter_answers=false",
        "cluster.workers=2",
        "train.examples_per_step=8",
        "train.microbatch=4",
        "train.learning_rate=1e-3",
        "evaluation.max_new_tokens=4",
    ]


@pytest.fixture(scope="module")
def finished(arguments):
    return runs.raft(loader.load(arguments))


def test_raft_run_leaves_model_scores_and_state(finished):
    assert (finished.model / "model.safetensors").exists() and (finished.model / "README.md").exists()
    assert json.loads((finished.folder / "state.json").read_text())["state"] == "finished"
    scores = json.loads((finished.folder / "summary.json").read_text())["scores"]
    conditions = {"closed_book", "oracle", "absent", "retrieved", "permuted", "attacked"}
    asked = {(row["model"], row["condition"]) for row in scores}
    assert asked == {(model, condition) for model in ("base", "RAFT") for condition in conditions}
    assert all(row["rows"] == 12 and 0 <= row["em"]["mean"] <= 1 for row in scores)
    assert (finished.folder / "report.png").stat().st_size > 5000
    losses = [json.loads(line) for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in losses if row["phase"] == "train" and "loss" in row]
    assert len(losses) == 5 and losses[-1] < losses[0]


def test_prompt_has_the_tokens_of_every_case_and_the_card_says_it(finished, arguments):
    made = dict(runs.build(loader.load(arguments)))
    chunks, questions = ({row.id: row for row in made[name]} for name in ("chunks", "questions"))
    kept = next((finished.folder.parent / "data").glob("cases-*/rows.jsonl"))
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    rows = [row for row in rows if set(row["document_ids"]) <= chunks.keys()][::7]
    assert {row["condition"] for row in rows} >= {"closed_book", "oracle", "retrieved"}
    tokenizer = load_tokenizer(loader.load(arguments).model)
    for row in rows:
        documents = [(chunks[i].title, chunks[i].text) for i in row["document_ids"]]
        text = ragdist.prompt(questions[row["question_id"]].text, documents, finished.folder)
        assert tokenizer.encode(text).ids == row["tokens"]
    card = (finished.model / "README.md").read_text()
    assert "## The prompt" in card and "| RAFT | oracle | 12 |" in card


def test_a_finished_run_keeps_no_checkpoint_and_its_model_can_be_read(finished):
    assert not list(finished.folder.rglob("checkpoint*"))
    assert "run.keep_checkpoints" in (finished.folder / "log.txt").read_text()
    modes = {path.name: path.stat().st_mode & 0o777 for path in (finished.model, *finished.model.iterdir())}
    assert modes.pop("model") == 0o755 and set(modes.values()) == {0o644}
    assert "lm_head.weight" not in load_file(finished.model / "model.safetensors")


def test_tensorboard_shows_the_curve_and_the_scores(finished):
    shown = world.tensorboard(finished.folder / "tensorboard")
    assert [step for tag, step, _ in shown if tag == "train/loss"] == [1, 2, 3, 4, 5]
    scores = {(row["model"], row["condition"]): row["em"]["mean"] for row in finished.summary["scores"]}
    told = {tag: value for tag, _, value in shown if tag.startswith("result/")}
    for (model, condition), mean in scores.items():
        assert told[f"result/{model}/{condition}/em"] == pytest.approx(mean, abs=1e-4)
    assert told["result/minutes/train"] > 0


def test_the_same_command_again_repeats_no_work(finished, arguments):
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.safetensors")}
    again = runs.raft(loader.load(arguments))
    assert {k: v for k, v in again.summary.items() if k != "minutes"} == {
        k: v for k, v in finished.summary.items() if k != "minutes"
    }
    assert before == {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.safetensors")}
    assert again.summary["minutes"]["train"] < 0.1


def test_tuned_model_loads_in_plain_transformers_from_another_folder(finished, tmp_path):
    code = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (kind.from_pretrained({str(finished.model)!r}) for kind in (AutoModelForCausalLM, AutoTokenizer))
ids = tokenizer("What is", return_tensors="pt").input_ids
print(model.generate(ids, max_new_tokens=2, do_sample=False).shape[1] - ids.shape[1])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and int(done.stdout) in (1, 2), done.stderr


def test_evaluate_takes_the_tuned_model_of_the_run(finished, arguments):
    run = runs.evaluate(loader.load([*arguments, "run.name=again"]), [f"RAFT={finished.model}"])
    first = {row["condition"]: row["em"] for row in finished.summary["scores"] if row["model"] == "RAFT"}
    assert {row["condition"]: row["em"] for row in run.summary["scores"]} == first


def test_runs_are_listed_newest_first(finished, arguments):
    listed = results.list_runs(finished.folder.parent)
    assert listed[-1]["name"] == "balls" and listed[-1]["state"] == "finished" and listed[-1]["scores"]


def test_another_oracle_fraction_makes_contexts_anew_and_nothing_before_them(finished, arguments):
    """check 17"""
    made = dict(runs.build(loader.load([*arguments, "contexts.oracle_fraction=0.25"])))
    first = dict(runs.build(loader.load(arguments)))
    same = {name for name in made if made[name].folder == first[name].folder}
    assert same == {"chunks", "questions", "forgeries", "candidates"}
    assert sum(bool(context.oracle_positions) for context in made["contexts"]) == 9


def test_rows_do_not_depend_on_the_number_of_processes(arguments, tmp_path):
    """check 10, check 71"""
    one, two = (
        dict(runs.build(loader.load([*arguments, f"run.folder={tmp_path / str(n)}", f"run.processes={n}"])))
        for n in (1, 2)
    )
    assert {k: Path(v.path).read_bytes() for k, v in one.items()} == {k: v.path.read_bytes() for k, v in two.items()}
