"""What is forged and what lists ATM is given: counts on the stages' cards, and the paper's settings file."""

import json
from pathlib import Path

import pytest

from ragdist.config.loader import load, resolve
from ragdist.data.matching import contains
from ragdist.data.pipeline import Pipeline
from ragdist.local import SerialMapper
from ragdist.plan import layout, seats
from ragdist.storage.stages import Store
from ragdist.systems.atm.training_rows import open_questions
from tests import tiny
from tests.plan.shapes import LLAMA_2_7B

PAPER = Path(__file__).parents[3] / "jobs" / "settings" / "atm-paper.yaml"


def row(ask, answers, documents, split="test", **more):
    kinds = [{"title": title, "text": text, "kind": kind} for kind, title, text in documents]
    return {"question": ask, "answers": answers, "documents": kinds, "split": split, **more}


ROWS = [
    row(
        "which city?",
        ["Delhi"],
        [("golden", "Delhi", "Delhi is the seat of power."), ("distractor", "Fort", "The fort is red. It is old.")],
        wrong_answers=["Agra"],
    ),
    row("does it help?", ["no"], [("golden", "Trial", "It was given to forty people for a year. It did nothing.")]),
    row("what now?", ["nothing at all"], [("distractor", "Fog", "There was fog over the town. It was cold.")]),
    row(
        "who?",
        ["York", "New Haven"],
        [("golden", "New Haven", "York Haven is meant.")],
        wrong_answers=["New"],
    ),
    row(
        "which river?",
        ["Main"],
        [
            ("golden", "River", "The Main runs by."),
            ("forged", "River", "Not the Main, the Ruhr."),
            ("forged", "River", "The Ruhr."),
        ],
        wrong_answers=["Ruhr"],
    ),
    *(
        row(
            f"Colour of ball {n}?",
            [f"shade{n}"],
            [("golden", f"ball {n}", f"Ball {n} is shade{n}, a colour.")],
            "train",
        )
        for n in range(6)
    ),
]


@pytest.fixture
def pipeline(tmp_path):
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(one) + "\n" for one in ROWS))

    def make(**atm):
        settings = resolve(
            {
                "corpus": {"source": "records", "questions": [str(tmp_path / "q.jsonl")]},
                "contexts": {"documents": 3, "oracle_fraction": 0.5, "too_few": "fewer"},
                "evaluation": {"forgeries": 2},
                "model": {"max_tokens": 1024},
                "atm": atm,
            }
        )
        return Pipeline(settings, Store(tmp_path / "data"), tiny.tokenizer(), SerialMapper())

    return make


def test_road_counts_what_it_cannot_falsify_and_uses_none_of_it(pipeline):
    """T3: the card of the stage says how many questions, and which kind."""
    made = pipeline()
    forged: dict[str, list] = {question.text: [] for question in made.questions if question.split == "test"}
    by_id = {question.id: question for question in made.questions}
    for one in made.forgeries:
        forged[by_id[one.question_id].text].append(one)
    counts = made.forgeries.card["counts"]
    # Forty people and fog: their texts say neither `no` nor `nothing at all`. York Haven cannot be made false.
    assert counts == {"given": 2, "given_truthful": 1, "still_true": 1, "not_falsified_in_text": 2}
    assert {ask: len(rows) for ask, rows in forged.items()} == {
        "which city?": 2, "does it help?": 2, "what now?": 2, "who?": 0, "which river?": 2
    }  # fmt: skip
    assert [one.truthful for one in forged["which river?"]] == [True, False]
    assert {one.title for one in forged["which city?"]} == {"Agra"}
    assert not any(contains(f"{one.title}\n{one.text}", "Delhi") for one in forged["which city?"])


def test_road_forges_a_question_without_an_oracle_in_the_form_of_a_distractor(pipeline):
    """T4: no bare statement."""
    made = pipeline()
    asked = next(question for question in made.questions if question.text == "what now?")
    forged = [one for one in made.forgeries if one.question_id == asked.id]
    assert {one.title for one in forged} == {"Fog"} and not asked.oracle_ids
    assert all(one.text.startswith("There was fog over the town.") and "What now?" in one.text for one in forged)


def test_lists_of_the_paper_are_those_that_were_retrieved(pipeline):
    """The deviation of T: D is what the retriever found, with the oracle or without, not thinned out by P%."""
    plain, retrieved = pipeline(), pipeline(lists="retrieved")
    assert open_questions(plain, "train").card["counts"]["with_oracle"] == 3  # half of 6
    rows = list(open_questions(retrieved, "train"))
    assert open_questions(retrieved, "train").card["counts"]["with_oracle"] == 6  # each question names its ball
    found = retrieved.retriever.search([question.text for question in rows], 3)
    assert [one.document_ids for one in rows] == [tuple(hit.chunk_id for hit in hits) for hits in found]
    oracles = {question.id: question.oracle_ids for question in retrieved.questions}
    for one in (*rows, *open_questions(retrieved, "test")):
        assert tuple(at for at, id in enumerate(one.document_ids) if id in oracles[one.id]) == one.oracle_positions


def test_settings_of_the_paper_hold_its_values_and_fit_eight_cards(tmp_path):
    """atm-paper.yaml: what the authors' README and scripts pass; `ragdist plan` takes it."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_7B))
    settings = load([str(PAPER), f"model.source={tmp_path}", f"run.folder={tmp_path}"])
    atm, (attacker, generator) = settings.atm, (settings.attacker.train, settings.generator.train)
    assert (atm.samples, atm.temperature, atm.top_p, atm.max_new_tokens) == (5, 0.8, 0.95, 512)
    assert (atm.dpo_beta, atm.kl_weight, atm.closed_book_share, atm.first_tuning) == (0.2, 0.2, 0.3, True)
    assert (atm.lists, atm.forging_answer, atm.forging_opening, settings.contexts.documents) == (
        "retrieved", "free", "own", 10
    )  # fmt: skip
    assert (attacker.learning_rate, generator.learning_rate) == (8e-7, 5e-6)
    for train, side in ((attacker, settings.attacker), (generator, settings.generator)):
        assert (train.examples_per_step, train.microbatch, side.workers, train.zero_stage) == (32, 2, 4, 2)
        assert (train.schedule, train.warmup, train.weight_decay, train.epochs) == ("cosine", 0.05, 1e-4, 1)
    made = layout.make(settings, "atm", seats.parse("1x8xA100-80GB:128cpu:2048GB"))
    assert settings.questions.train_rows == 100 * 32 and not layout.check(made)
