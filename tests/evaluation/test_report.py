"""The demo's table, the same numbers in every form, and a picture that can be opened."""

import json
from dataclasses import replace

import pytest
from matplotlib.image import imread
from rich.console import Console

from ragdist.evaluation.intervals import Change, Interval
from ragdist.evaluation.report import Told, sentences
from ragdist.evaluation.sheet import counted, markdown, picture, terminal
from ragdist.evaluation.summary import summarise
from tests.evaluation import world
from tests.evaluation.world import RuleWriter, majority, stubborn


def build(folder, *conditions, **models):
    chosen = world.settings(conditions=list(conditions))
    asked = {label: world.evaluate(RuleWriter(rule), folder, chosen, label) for label, rule in models.items()}
    floor = {question.id: "103" for question in world.QUESTIONS}
    return summarise(asked, world.QUESTIONS, chosen, floor)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    names = ("closed_book", "oracle", "absent", "retrieved", "attacked")
    return build(folder, *names, base=stubborn, RAFT=majority)


def printed(report):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(terminal(report.sheet()))
    return capture.get()


def test_table_reads_as_the_papers_do_and_fits_100_columns(report):
    text = printed(report)
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    for name in ("oracle present", "oracle absent", "template attack", "base", "RAFT"):
        assert name in words
    assert "RAFT 0.00 1.00 1.00 0.00 0.67 0.00" in words
    assert "floor (parameter 0.01" in words
    assert (
        "RAFT: attack success 1.00 (0.97 to 1.00) over the 120 right on the same list without it; repeats the forged"
        in words
    )
    assert "RAFT against base, template attack: -0.50 [-0.5" in words


def table(report):
    return report.sheet().blocks[0].rows


def test_a_model_is_one_row_and_what_scores_and_lists_mean_stands_below(report):
    assert [row[0] for row in table(report)[:-1]] == ["base", "RAFT"] and all(map(all, table(report)[:2]))
    below = " ".join(report.sheet().blocks[1].lines)
    assert "EM, of answers that are a right one and nothing else" in below and "permuted: the same documents" in below


def test_one_question_is_a_question():
    assert [counted(), counted(1), counted(4, 4), counted(3, 1, 5)] == [
        *("0 questions", "1 question", "4 questions", "1 to 5 questions")
    ]


def test_changes_over_few_questions_are_one_sentence_for_two_models():
    """By hand: three changes, two of them over 4 questions."""
    old, new = Interval(0.25, 0.0, 0.5), Interval(0.5, 0.2, 0.8)
    about = {"before": "base", "after": "RAFT", "metric": "subspan", "change": Interval(0.25, 0.0, 0.5)}
    about |= {"p": 1.0, "corrected": 1.0, "verdict": "+0.25"}
    found = [
        Told(where, Change(**about, condition=where, rows=rows), old, new)
        for where, rows in (("oracle present", 4), ("retrieved", 200), ("oracle absent", 4))
    ]
    enough, few = sentences(found)
    assert enough.startswith("Retrieved: RAFT is right in 50% of 200 questions, base in 25%")
    assert few == (
        "RAFT against base, right answers: oracle present 50% against 25% of 4; oracle absent 50% against 25% of 4. "
        "Over fewer than 100 questions nothing is called a difference."
    )


def test_json_holds_every_number_and_survives_a_trip(report):
    data = json.loads(json.dumps(report.sheet().numbers))
    scores = {(row["model"], row["condition"]): row for row in data["scores"]}
    assert len(scores) == 12
    wilson = pytest.approx(120 / (120 + 1.959964**2))
    assert scores["RAFT", "oracle"]["em"] == {"mean": 1.0, "low": wilson, "high": 1.0}
    assert scores["RAFT", "oracle"]["rows"] == world.COUNT
    assert data["floor"]["em"]["mean"] == pytest.approx(1 / 120)
    assert {(row["model"], row["metric"]): row["rows"] for row in data["attack_success"]}["base", "em"] == 60
    assert data["baseline"] == "base"
    assert all(row["verdict"] for row in data["changes"])


def test_markdown_tables_are_rectangular_and_agree_with_json(report):
    text = markdown(report.sheet())
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
    assert "| RAFT | **0.00** (0.00 to 0.03), 0.00 / 0.00 | **1.00** (0.97 to 1.00), 1.00 / 1.00 |" in text
    assert "| floor (parameter name alone) | **0.01** (0" in text
    assert "perplexity" not in text  # nothing was read


def test_picture_is_a_png_with_something_in_it(report, tmp_path):
    pixels = imread(picture(report.sheet(), tmp_path / "deep" / "report.png"))
    assert pixels.shape[0] > 400 and pixels.shape[1] > 800
    assert 0.5 < pixels[..., :3].mean() < 0.99


def test_one_model_alone_is_one_row_compared_with_nothing(tmp_path):
    alone = build(tmp_path, "closed_book", "oracle", RAFT=majority)
    assert [row[0] for row in table(alone)][:-1] == ["RAFT"]
    assert (alone.baseline, alone.changes, alone.attacks) == ("", (), ())
    assert "against" not in printed(alone)


def test_nothing_asked_is_said_so_in_every_form(tmp_path):
    empty = summarise({}, [], world.settings(), {})
    assert "0 questions" in printed(empty)
    assert "0 questions" in markdown(empty.sheet())
    assert picture(empty.sheet(), tmp_path / "empty.png").exists()


def test_picture_of_many_models_grows_so_that_their_numbers_stay_apart(tmp_path):
    chosen = world.settings(conditions=["closed_book", "oracle"])
    rows = world.evaluate(RuleWriter(majority), tmp_path, chosen)
    widths = []
    for count in (2, 8):
        asked = {f"model {n}": [replace(row, model=f"model {n}") for row in rows] for n in range(count)}
        report = summarise(asked, world.QUESTIONS, chosen, {})
        widths.append(imread(picture(report.sheet(), tmp_path / "report.png")).shape[1])
    assert widths[1] > 1.3 * widths[0]
