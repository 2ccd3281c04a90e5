"""P% is a share of the rows that are trained: exact and nested after every drop, the same for any number of workers."""

import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragdist.config.loader import resolve
from ragdist.data.audit import audit
from ragdist.data.pipeline import Pipeline
from ragdist.errors import DataError
from ragdist.local import ProcessMapper, SerialMapper
from ragdist.storage.stages import Store
from ragdist.systems.atm.training_rows import open_questions
from tests import tiny
from tests.data.shown import parse

CODEC = tiny.tokenizer()
FRACTIONS = (0.0, 0.2, 0.5, 0.6, 1.0)


def written(folder, count, bad=(), long=()):
    """A question file: those of `bad` quote what nobody says, the golden document of those of `long` ends too late."""
    smoke = " and burns" * 200
    rows = [
        {
            "question": f"Where is lamp {n}?",
            "answers": [f"room {n}"],
            "split": "train" if n < count else "test",
            "long_answer": f"##begin_quote##{'nothing' if n in bad else f'Lamp {n} burns'}##end_quote##",
            "documents": [
                {
                    "title": f"{n}",
                    "text": f"Lamp {n} burns{smoke * (n in long)} in room {n}.",
                    "kind": "golden",
                },
                {"title": f"not {n}", "text": f"Nobody knows {n}.", "kind": "distractor"},
            ],
        }
        for n in range(count + 1)
    ]
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pipeline(folder, questions, p, mapper=None, *, cut="keep", answer="reasoned", **contexts):
    asked = {"oracle_fraction": p, "documents": 2, "filter_answers": False, **contexts}
    made = {
        "corpus": {"source": "records", "questions": [questions]},
        "contexts": asked,
        "prompts": {"answer": answer, "cut_answers": cut},
        "model": {"max_tokens": 400},
    }
    return Pipeline(resolve(made), Store(folder), CODEC, mapper or SerialMapper())


def trained(made):
    """Of each trained row: its question's number, and whether its prompt shows the golden document."""
    found = {}
    for row in made.examples:
        text = CODEC.decode(row.tokens[: row.prompt_tokens])
        documents, question = parse(text[text.index("<DOCUMENT>") : text.index("\nassistant")])
        number = question.removeprefix("Where is lamp ").removesuffix("?")
        found[int(number)] = number in [document.title for document in documents]
    return found


def halves_up(number):
    return math.floor(number + 0.5)


@settings(max_examples=12, deadline=None)
@given(st.data(), st.integers(2, 12))
def test_any_drops_leave_p_exact_and_nested(data, count):
    """T2: of N questions, whichever are dropped for a quote or for a cut answer, round(P * rows) show their oracle."""
    numbers = st.sets(st.integers(0, count - 1), max_size=count - 1)
    bad, long = data.draw(numbers), data.draw(numbers)
    fractions = sorted(data.draw(st.lists(st.floats(0, 1), min_size=2, max_size=2)))
    if len(bad | long) == count:
        bad, long = bad - {0}, long - {0}
    with tempfile.TemporaryDirectory() as folder:
        questions, kept = written(Path(folder), count, bad, long), set()
        for p in fractions:
            found = trained(pipeline(Path(folder) / "data", questions, p, cut="drop"))
            assert found.keys() == set(range(count)) - bad - long
            assert sum(found.values()) == halves_up(p * len(found))
            now = {number for number, shows in found.items() if shows}
            assert kept <= now
            kept = now


@pytest.mark.parametrize("seed", range(3))
def test_dropped_quotes_do_not_move_p_and_audit_says_what_is_trained(tmp_path, seed):
    """T2: 90 questions, 30 of them with a bad quote, P = 0.6: 36 of 60 rows, by the rows and by the audit."""
    questions = written(tmp_path, 90, bad=set(range(0, 90, 3)))
    made = pipeline(tmp_path / "data", questions, 0.6)
    made.settings = made.settings.model_copy(update={"seed": seed})
    assert sum(trained(made).values()) == 36 and len(made.examples) == 60
    found = audit(made.questions, made.contexts, made.chunk_by_id, made.examples, made.settings, made.dropped)
    assert (found.rows, found.oracle_rows, found.oracle_share) == (60, 36, 0.6)
    assert found.dropped == {"invalid_quotes_dropped": 30}
    assert not [problem for problem in found.problems if "oracle_fraction" in problem]


def test_audit_finds_rows_that_were_dropped_after_the_cut(tmp_path):
    """T2: rows that go missing behind the contexts change the realised P that is said."""
    made = pipeline(tmp_path / "data", written(tmp_path, 20), 0.5)
    shown = {context.question_id for context in made.contexts if context.oracle_positions}
    rows = [row for row in made.examples if row.id in shown]
    found = audit(made.questions, made.contexts, made.chunk_by_id, rows, made.settings)
    assert found.oracle_share == 1.0 and "10 of 10 rows hold their oracle" in found.problems[0]


def test_coin_stays_a_coin_on_the_rows_that_are_left(tmp_path):
    """T2: with draw=bernoulli a question's coin does not depend on the others."""
    few = trained(pipeline(tmp_path / "few", written(tmp_path, 40, bad=set(range(20))), 0.5, draw="bernoulli"))
    all_ = trained(pipeline(tmp_path / "all", written(tmp_path, 40), 0.5, draw="bernoulli", answer="plain"))
    assert few.keys() == set(range(20, 40)) and few.items() <= all_.items()


def test_kept_quotes_are_trained(tmp_path):
    made = pipeline(tmp_path / "data", written(tmp_path, 10, bad={1, 2}), 0.5)
    made.settings = made.settings.model_copy(
        update={"prompts": made.settings.prompts.model_copy(update={"invalid_quotes": "keep"})}
    )
    assert len(trained(made)) == 10 and made.examples.card["counts"]["invalid_quotes"] == 2


@pytest.mark.parametrize("cut", ["keep", "drop"])
def test_all_fractions_together_render_each_question_twice_at_most(tmp_path, cut):
    """T2, T6: what is dropped is the same for every P, so that P stays a view; bytes are those of one P alone."""
    questions = written(tmp_path, 20, bad={3}, long={4, 5})
    rendered = 0
    for p in FRACTIONS:
        made = pipeline(tmp_path / "shared", questions, p, cut=cut)
        alone = pipeline(tmp_path / f"alone-{p}", questions, p, cut=cut)
        assert made.examples.path.read_bytes() == alone.examples.path.read_bytes()
    for card in (tmp_path / "shared").glob("examples-*/stage.json"):
        rendered += json.loads(card.read_text())["counts"]["rendered"]
    assert rendered == {"keep": 19 + 19, "drop": 19 + 17}[cut]


def test_two_workers_make_the_same_rows(tmp_path):
    """T2, T6: the drops too."""
    questions = written(tmp_path, 12, bad={3}, long={4, 5})
    one = pipeline(tmp_path / "one", questions, 0.6, cut="drop")
    two = pipeline(tmp_path / "two", questions, 0.6, ProcessMapper(2), cut="drop")
    assert one.examples.path.read_bytes() == two.examples.path.read_bytes()
    assert one.contexts.path.read_bytes() == two.contexts.path.read_bytes()


@pytest.mark.parametrize(("cut", "rows", "lost"), [("keep", 10, 2), ("drop", 8, 0)])
def test_rows_whose_answer_is_cut_off_are_counted_named_and_can_be_left_out(tmp_path, cut, rows, lost):
    """T6: a golden document too long to show where its lamp is."""
    made = pipeline(tmp_path / "data", written(tmp_path, 10, long={4, 5}), 1.0, cut=cut, answer="plain")
    found = audit(made.questions, made.contexts, made.chunk_by_id, made.examples, made.settings, made.dropped)
    assert (
        (found.rows, found.cut_answers)
        == (rows, lost)
        == (len(trained(made)), made.examples.card["counts"]["cut_answers"])
    )
    texts = {question.id: question.text for question in made.questions}
    named = {texts[name] for name in found.cut_answers_named}
    assert named == ({"Where is lamp 4?", "Where is lamp 5?"} if lost else set())
    said = [problem for problem in found.problems if "lost the answer" in problem]
    assert bool(said) == bool(lost) and all("2 rows (20.0%)" in problem for problem in said)
    assert found.dropped == ({"cut_answers_dropped": 2} if cut == "drop" else {})


def test_absent_rows_lose_no_answer(tmp_path):
    """T6: where no golden document is shown, none is cut."""
    made = pipeline(tmp_path / "data", written(tmp_path, 10, long={4, 5}), 0.0, answer="plain")
    assert made.examples.card["counts"]["cut_answers"] == 0 and len(made.examples) == 10


def test_nothing_left_to_train_on_is_said_before_rows_are_made(tmp_path):
    """T2: too few rows: which setting took them."""
    made = pipeline(tmp_path / "data", written(tmp_path, 4, bad={0, 1}, long={2, 3}), 0.6, cut="drop")
    with pytest.raises(DataError, match=r"no training row is left of 4: 2 with a quote .*2 whose answer is cut off"):
        made.make("examples")


def test_open_questions_are_those_that_are_trained_with_their_oracles_where_the_context_has_them(tmp_path):
    """T2: ATM learns the same targets, so a bad quote is left out there too; positions are those of the oracle."""
    made = pipeline(tmp_path / "data", written(tmp_path, 20, bad={0, 1, 2, 3}), 0.5)
    opened, contexts = list(open_questions(made, "train")), list(made.contexts)
    assert [question.id for question in opened] == [context.question_id for context in contexts]
    assert len(opened) == 16 and sum(bool(question.oracle_positions) for question in opened) == 8
    for question in [*opened, *open_questions(made, "test")]:
        number = question.text.removeprefix("Where is lamp ").removesuffix("?")
        golden = tuple(at for at, title in enumerate(question.titles) if title == number)
        assert question.oracle_positions == golden and len(question.titles) == 2
    assert {question.oracle_positions for question in opened} == {(), (0,), (1,)}
    (tested,) = open_questions(made, "test")
    assert tested.oracle_positions and tested.text == "Where is lamp 20?"
