"""The suite from settings to report and verdict, with a tiny model that is really asked."""

import json
from xml.etree import ElementTree

import pytest

import ragdist
from ragdist import cli
from ragdist.config import loader
from ragdist.data.attacks import registry
from ragdist.errors import ConfigError
from ragdist.evaluation import kept_answers
from ragdist.evaluation.service import RagService
from ragdist.sweeps import trials
from tests import tiny
from tests.data.sources.test_conflicts import rgb

SHADES = ("red", "green", "blue", "grey")
ROWS = [
    {
        "question": f"What is the colour of ball {n}?",
        "answers": [SHADES[n % 4]],
        "split": "test" if n < 4 else "train",
        "documents": [{"title": f"ball {n}", "text": f"Ball {n} is {SHADES[n % 4]}. It rolls.", "kind": "golden"}],
    }
    for n in range(16)
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    questions = folder / "q.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    path = folder / "settings.yaml"
    path.write_text(
        json.dumps(
            {
                "run": {"folder": str(folder / "runs")},
                "model": {"source": str(tiny.model_folder(folder)), "max_tokens": 1024},
                "corpus": {"source": "records", "questions": [str(questions)]},
                "contexts": {"documents": 3, "distractors": "random", "filter_answers": False},
                "evaluation": {"conditions": ["oracle", "permuted"], "max_new_tokens": 4, "forgeries": 2},
            }
        )
    )
    return path


def test_evaluate_asks_attacks_and_grid_and_reports_them(settings, capsys):
    model = loader.load([str(settings)]).model.source
    arguments = [str(settings), "--model", f"one={model}", "--model", f"two={model}"]
    command = ["evaluate", *arguments, "--attack", "flood", "--attack", "number-shift", "--grid", "--json"]
    with pytest.raises(SystemExit) as end:
        cli.main(command)
    assert not end.value.code
    found = json.loads(capsys.readouterr().out)["robustness"]
    assert {(one["model"], one["name"], one["rows"]) for one in found["attacks"]} == {
        ("one", "flood", 4),
        ("two", "flood", 4),
    }
    assert found["notes"] == [
        "number-shift: left out of 4 questions 4 as it wrote nothing; the first is "
        + found["notes"][0].partition("the first is ")[2]
    ]
    cells = {tuple(one["cell"].values()) for one in found["cells"]}
    assert {
        (3, 0, "drawn", True),
        (3, 2, "first", True),
        (3, 1, "last", True),
        (3, 1, "drawn", False),
        (1, 0, "drawn", True),
    } <= cells
    assert {(one["model"], one["of"]) for one in found["gaps"]} == {
        (m, of) for m in ("one", "two") for of in ("attacks", "grid")
    }
    assert [one["model"] for one in found["areas"]] == ["one", "two"]
    (folder,) = {path.parent for path in (settings.parent / "runs").glob("evaluate-*/report.html")}
    assert (
        "Subspan EM under each attack" in (folder / "report.html").read_text()
        and "gap over grid" in (folder / "report.md").read_text()
    )
    rows = kept_answers.read(folder).to_pylist()
    flooded = [row for row in rows if row["condition"] == "flood"]
    assert len(flooded) == 8 and all([one["kind"] for one in row["documents"]].count("forged") == 2 for row in flooded)
    asked = len({(row["model"], row["question_id"], *(one["id"] for one in row["documents"])) for row in rows})
    assert asked < len(rows)


def test_gate_judges_the_matrix_and_asks_nothing_again(settings, tmp_path, capsys, monkeypatch):
    model = loader.load([str(settings)]).model.source
    files = ["--junit", str(tmp_path / "j.xml"), "--sarif", str(tmp_path / "s.json")]
    gate = ["gate", str(settings), "evaluation.attacks=[all]", "--model", f"one={model}", "--max-misled", "0.5", *files]
    with pytest.raises(SystemExit) as end:
        cli.main([*gate, "--min-clean", "0.9"])
    assert end.value.code == 1 and "oracle present: right 0.0" in capsys.readouterr().err
    cases = [case.get("name") for case in ElementTree.parse(tmp_path / "j.xml").getroot().iter("testcase")]
    assert {f"one: {name}" for name in registry.OWN if name != "number-shift"} <= set(cases)
    assert len(json.loads((tmp_path / "s.json").read_text())["runs"][0]["results"]) == len(cases)
    monkeypatch.setattr("ragdist.players.answerers", lambda *_: None)  # whoever opens one fails
    limits = {"min_clean": 0.0}
    verdict = ragdist.gate(loader.load([str(settings), "evaluation.attacks=[all]"]), [f"one={model}"], **limits)
    assert verdict.why == "" and len(verdict.scenarios) == 2


def test_a_model_under_a_defence_is_a_row_of_its_own(settings, capsys, monkeypatch):
    model = loader.load([str(settings)]).model.source
    command = [str(settings), "evaluation.conditions=[closed_book,permuted]", "--model", f"one={model}"]
    command += ["--attack", "flood", "--defence", "isolation", "--defence", "perplexity", "--defence", "paraphrase"]
    with pytest.raises(SystemExit) as end:
        cli.main(["matrix", *command, "--json"])
    assert not end.value.code
    found = json.loads(capsys.readouterr().out)
    labels = ["one", *(f"one + {name}" for name in ("isolation", "perplexity", "paraphrase"))]
    assert [one["model"] for one in found["robustness"]["attacks"]] == labels
    assert [one["model"] for one in found["scores"] if one["condition"] == "permuted"] == labels
    assert [one["model"] for one in found["scores"] if one["condition"] == "closed_book"] == ["one"]
    assert len(found["defences"]) == 3 and found["defences"][1].endswith("arXiv 2309.00614 (perplexity filter).")
    monkeypatch.setattr("ragdist.players.answerers", lambda *_: None)  # whoever opens one fails
    with pytest.raises(SystemExit) as end:
        cli.main(["gate", *command, "--min-clean", "0.99"])
    said = capsys.readouterr()
    assert end.value.code == 1 and "one + isolation, " in said.err and "and 2 scenarios more" in said.err


def test_defences_are_refused_where_they_cannot_be(settings):
    asked = loader.load([str(settings), "evaluation.attacks=[flood]", "evaluation.defences=[perplexity]"])
    service = RagService("http://127.0.0.1:9/v1", settings.parent / "docs", "true")
    for models, given, why in (
        (["http://127.0.0.1:9/v1"], None, "the defence perplexity reads probabilities of tokens, which the endpoint"),
        ([], service, "a service answers in its own way; leave out --defence and evaluation.defences"),
    ):
        with pytest.raises(ConfigError, match=why):
            ragdist.evaluate(asked, models, service=given)
    with pytest.raises(ConfigError, match=r"leave them out of a sweep"):
        trials.check("raft", asked.sweep, asked.evaluation)


def test_a_benchmark_that_judges_is_asked_without_training_questions(settings, tmp_path):
    corpus = {"source": "benchmark", "benchmark": "rgb", "folder": str(rgb(tmp_path)), "questions": []}
    own = {"corpus": corpus, "evaluation": {"conditions": ["attacked"]}}
    asked = loader.load([str(settings), own, "corpus.datasets=[rgb_en_fact,rgb_zh_fact]"])
    report = ragdist.evaluate(asked, [f"one={asked.model.source}"]).report
    assert report.attack_name == "attacked" and report.cell("one", "attacked").rows == 2


def test_systems_that_do_not_ask_the_suite_refuse_it(settings):
    for values in ("evaluation.attacks=[flood]", "evaluation.defences=[isolation]"):
        asked = loader.load([str(settings), values])
        for system in (ragdist.atm, ragdist.duet):
            with pytest.raises(ConfigError, match=r"evaluation\.attacks and evaluation\.grid are asked by RAFT and"):
                system(asked)
