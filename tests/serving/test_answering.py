"""A model asked over HTTP by `evaluate` gives the rows that it gives here."""

import json

import pytest

import ragdist
from ragdist import asking, cli
from ragdist.config import loader
from ragdist.errors import ConfigError
from ragdist.evaluation import kept_answers
from ragdist.evaluation.service import RagService
from tests.evaluation.test_suite_run import ROWS
from tests.serving.finished import raft_run
from tests.serving.listening import listening

TOKEN = "a-token-of-a-test"
SYSTEM = "You answer."
PLAIN = ("prompts.question_closed='{question}'", f"prompts.system_closed={SYSTEM}")
"""With these, and no document that matches, `ragdist serve` passes a message on as it is."""
STRANGE = [
    {"question": f"ψ{n}?", "answers": [f"ω{n}"], "split": "test" if n == 2 else "train"}
    | {"documents": [{"title": f"χ{n}", "text": f"φ{n}.", "kind": "golden"}]}
    for n in range(6)
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Settings of an evaluation, the folder of a model, the run that serves it."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "served").mkdir()
    run = raft_run(folder / "served", *PLAIN, "model.max_tokens=1024", rows=STRANGE)
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    settings = loader.load(
        [
            *(f"run.folder={folder}/runs", f"model.source={run}/model", "model.max_tokens=220", "model.dtype=float32"),
            *("corpus.source=records", f"corpus.questions=[{folder}/q.jsonl]", "contexts.documents=3"),
            *("contexts.distractors=random", "contexts.filter_answers=false", "evaluation.forgeries=2"),
            *("evaluation.conditions=[closed_book,oracle,permuted]", "evaluation.max_new_tokens=6"),
            *("evaluation.attacks=[flood]", f"prompts.system={SYSTEM}", f"prompts.system_closed={SYSTEM}"),
        ]
    )
    return settings, run


def rows_of(folder):
    found = {}
    for row in kept_answers.read(folder).to_pylist():
        found.setdefault(row.pop("model"), []).append(row)
    return found


def test_an_endpoint_gives_the_rows_of_the_folder_and_is_not_asked_again(world, monkeypatch):
    settings, run = world
    monkeypatch.setenv("OPENAI_API_KEY", TOKEN)
    with asking.served(run, ["serve.waiting=64"], TOKEN) as app, listening(app) as address:
        source = f"{address}/v1#tiny"
        models = [f"here={run}/model", f"there={source}"]
        made = ragdist.evaluate(settings, models)
    found = rows_of(made.folder)
    assert found["here"] == found["there"] and len(found["here"]) == 16
    assert any(row["cut_tokens"] for row in found["there"]) and len({row["text"] for row in found["there"]}) > 4
    assert made.model.name == "there"
    monkeypatch.setattr("ragdist.players.answerers", lambda *_: pytest.fail("nobody is asked again"))
    verdict = ragdist.gate(settings, models, min_clean=0.0)
    assert {one.model for one in verdict.scenarios} == {"here", "there"}
    other = ragdist.evaluate(settings.replaced("run.name", "other"), [f"there={source}"])
    assert rows_of(other.folder)["there"] == found["there"]
    kept = [path for path in (run.parents[2] / "runs").rglob("*") if path.is_file()]
    assert kept and not any(TOKEN.encode() in path.read_bytes() for path in kept)


def test_a_run_that_is_served_answers_as_a_service_what_evaluate_gives_it_to_retrieve(tmp_path, monkeypatch):
    run = raft_run(tmp_path, "evaluation.conditions=[retrieved,permuted]", "evaluation.attacks=[flood]")
    monkeypatch.setenv("OPENAI_API_KEY", TOKEN)
    settings = loader.load_kept(run / "settings.yaml").replaced("run.name", "judged")
    here = rows_of(ragdist.evaluate(settings, [f"here={run}/model"]).folder)["here"]
    with asking.served(run, [], TOKEN) as app, listening(app) as address:
        service = RagService(f"there={address}/v1#tiny", tmp_path / "docs", "true")
        there = rows_of(ragdist.evaluate(settings, service=service).folder)["there"]
    retrieved = [
        [(row["question_id"], row["text"]) for row in rows if row["condition"] == "retrieved"] for rows in (here, there)
    ]
    assert retrieved[0] == retrieved[1] and len(retrieved[0]) == 1 and len(there) == 2


@pytest.mark.parametrize(
    ("models", "changes", "wanted"),
    [
        (["http://u:p@h/v1#m"], {}, "the address of a model must be"),
        (["http://h/v1#m", "http://g/v1#m"], {}, "2 models are called 'm'"),
        (["http://h/v1#m"], {"evaluation.perplexity": True}, "evaluation.perplexity=true"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_starts(world, models, changes, wanted):
    with pytest.raises(ConfigError) as raised:
        ragdist.evaluate(world[0].replaced(changes) if changes else world[0], models)
    assert wanted in str(raised.value)


def test_an_endpoint_that_is_not_there_is_one_line_on_the_command_line(world, tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(loader.dump(world[0].replaced("teacher.attempts", 1)))
    with pytest.raises(SystemExit) as end:
        cli.main(["matrix", str(tmp_path / "s.yaml"), "--model", "http://127.0.0.1:9/v1#m", "--attack", "flood"])
    assert end.value.code == 1
    assert "http://127.0.0.1:9/v1 failed 1 times on" in capsys.readouterr().err.splitlines()[-1]
