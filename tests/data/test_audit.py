import json
from dataclasses import replace

import pytest
from rich.console import Console
from scipy.stats import chisquare

from ragdist.config.loader import resolve
from ragdist.data import audit as auditing
from ragdist.data.audit import audit, uniform_p
from ragdist.data.contexts import assemble, keep_oracle
from ragdist.data.distractors import candidates
from ragdist.data.examples import example
from ragdist.records import Chunk, Question, content_id
from tests import tiny

SIZE = 300
PLAIN = {"contexts": {"distractors": "random"}}


def pipeline(**values):
    """Settings, questions, chunks, contexts and rows of 300 made-up hotels, each asked about once."""
    settings = resolve({**PLAIN, **values})
    chunks, questions = {}, []
    for n in range(SIZE):
        text = f"Hotel {n} opened in {1000 + n}."
        chunk = Chunk(id=content_id(text), document_id="d", title=f"Hotel {n}", text=text)
        chunks[chunk.id] = chunk
        said = f"##begin_quote##opened in {1000 + n}##end_quote##"
        asked = Question(
            id=content_id("q", str(n)),
            text=f"When did hotel {n} open?",
            answers=(str(1000 + n),),
            oracle_ids=(chunk.id,),
            split="train",
            reasoning=said,
        )
        questions.append(asked)
    questions.append(replace(questions[0], id="test", text="Which hotel is best?", split="test"))
    train = questions[:-1]
    keep = keep_oracle((q.id for q in train), settings.contexts, settings.seed)
    found = candidates(train, chunks, None, settings.contexts, seed=settings.seed)
    pairs = zip(train, found, strict=True)
    contexts = [assemble(q, c, keep(q.id), settings.contexts, settings.seed) for q, c in pairs]
    rows = [row_of(q, c, chunks, settings) for q, c in zip(train, contexts, strict=True)]
    return settings, questions, chunks, contexts, rows


def row_of(question, context, chunks, settings):
    shown = [chunks[i] for i in context.chunk_ids]
    return example(question, shown, tiny.tokenizer(), settings.prompts, max_tokens=settings.model.max_tokens)


def findings(settings, questions, chunks, contexts, rows):
    return audit(iter(questions), iter(contexts), chunks, iter(rows), settings)


def test_audit_of_a_sound_road_finds_no_problem():
    """check 1, check 5, check 6, check 9, check 12, check 19: all hold on what the data pipeline makes."""
    settings, *made = pipeline()
    found = findings(settings, *made)
    assert found.problems == ()
    assert (found.contexts, found.rows, found.oracle_contexts) == (SIZE, SIZE, 180)
    assert found.documents == {5: SIZE} and sum(found.positions) == 180
    assert (found.quoting, found.train_questions, found.test_questions) == (SIZE, SIZE, 1)
    lengths = sorted(len(row.tokens) for row in made[-1])
    assert found.lengths.max == lengths[-1] and sum(found.lengths.histogram) == SIZE
    assert found.lengths.mean == pytest.approx(sum(lengths) / SIZE)
    assert found.lengths.p50 == (lengths[149] + lengths[150]) / 2


def spoil_share(questions, chunks, contexts, rows):
    others = [i for i in chunks if i not in contexts[0].chunk_ids]
    gone = [replace(c, chunk_ids=tuple(others[:5]), oracle_positions=()) for c in contexts[:60]]
    return questions, chunks, gone + contexts[60:], rows


def spoil_positions(questions, chunks, contexts, rows):
    def first(context):
        at = context.oracle_positions[0]
        ids = (context.chunk_ids[at], *context.chunk_ids[:at], *context.chunk_ids[at + 1 :])
        return replace(context, chunk_ids=ids, oracle_positions=(0,))

    return questions, chunks, [first(c) if c.oracle_positions else c for c in contexts], rows


def spoil_recorded_position(questions, chunks, contexts, rows):
    return questions, chunks, [replace(c, oracle_positions=()) for c in contexts], rows


def spoil_texts(questions, chunks, contexts, rows):
    free = next(at for at, _ in enumerate(contexts[0].chunk_ids) if at not in contexts[0].oracle_positions)
    ids = list(contexts[0].chunk_ids)
    source = chunks[ids[free - 1]]
    twin = replace(source, id="twin", text=source.text.replace(" ", "\n"))
    ids[free] = "twin"
    return questions, {**chunks, "twin": twin}, [replace(contexts[0], chunk_ids=tuple(ids)), *contexts[1:]], rows


def spoil_split(questions, chunks, contexts, rows):
    return (
        [*questions, replace(questions[3], id="leak", text="WHEN did  hotel 3 open?", split="test")],
        chunks,
        contexts,
        rows,
    )


def spoil_answers(questions, chunks, contexts, rows):
    other = next(i for at, i in enumerate(contexts[0].chunk_ids) if at not in contexts[0].oracle_positions)
    changed = replace(chunks[other], text=f"{chunks[other].text} Like that of {questions[0].answers[0]}.")
    return questions, {**chunks, other: changed}, contexts, rows


def spoil_size(questions, chunks, contexts, rows):
    shorter = next(c for c in contexts if not c.oracle_positions)
    return questions, chunks, [replace(c, chunk_ids=c.chunk_ids[:4]) if c is shorter else c for c in contexts], rows


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (spoil_share, "contexts.oracle_fraction=0.6 asks for 180"),
        (spoil_positions, "not uniform"),
        (spoil_recorded_position, "180 contexts hold only some of their oracles or name a wrong position"),
        (spoil_texts, "1 contexts show a chunk or a text twice"),
        (spoil_split, "1 training questions are also test questions"),
        (spoil_answers, "have a distractor that holds an answer"),
        (spoil_size, "1 contexts have another number of documents than contexts.documents=5"),
    ],
)
def test_audit_names_what_was_spoiled(spoil, problem):
    settings, *made = pipeline()
    found = findings(settings, *spoil(*made))
    assert any(problem in said for said in found.problems), found.problems


def test_audit_names_contexts_without_oracle_that_show_an_answer():
    """T1: apart from those with their oracle; the first 20 by question."""
    settings, questions, chunks, contexts, rows = pipeline()
    absent = [context for context in contexts if not context.oracle_positions][:25]
    for context in absent:
        asked = next(question for question in questions if question.id == context.question_id)
        shown = next(i for i in context.chunk_ids)
        chunks = {**chunks, shown: replace(chunks[shown], text=f"{chunks[shown].text} As in {asked.answers[0]}.")}
    found = findings(settings, questions, chunks, contexts, rows)
    assert found.absent_answers == 25 and found.answer_contexts >= 25
    assert found.absent_answers_named == tuple(context.question_id for context in absent[:20])
    said = next(problem for problem in found.problems if "without their oracle show a right answer" in problem)
    assert said.startswith("25 contexts") and absent[19].question_id in said and said.endswith("and 5 more")


def test_audit_names_near_duplicates_between_the_splits():
    """T8: not those that are equal, which are told apart."""
    settings, questions, *made = pipeline()
    test = [
        replace(questions[n], id=f"test {n}", text=text, split="test")
        for n, text in enumerate(
            ("Tell me: when did hotel 0 open?", "When did hotel 1 open", "Please, when did hotel 999 open?")
        )
    ]
    found = findings(settings, [*questions, *test], *made)
    assert (found.near_duplicates, found.shared_texts) == (1, 1)
    assert found.near_duplicates_named == (f"{questions[0].id}, like test 0",)
    assert any("1 training questions ask a test question again" in problem for problem in found.problems)


def test_audit_counts_quotes_that_do_not_hold():
    """check 12: not in the oracle, and unbalanced; a problem only where reasoning is trained on."""
    settings, questions, *made = pipeline(prompts={"answer": "reasoned"})
    questions[0] = replace(questions[0], reasoning="##begin_quote##opened in 1999##end_quote##")
    questions[1] = replace(questions[1], reasoning="##begin_quote##opened in 1001")
    found = findings(settings, questions, *made)
    assert (found.quoting, found.quotes_not_verbatim, found.quotes_unbalanced) == (SIZE, 1, 1)
    assert found.problems == ("2 of 300 quoting answers have a quote that is not in the oracle, or unbalanced marks",)
    assert findings(resolve(PLAIN), questions, *made).problems == ()


def test_audit_counts_truncated_rows_and_their_tokens():
    """check 23."""
    settings, *made = pipeline(model={"max_tokens": 200})
    found = findings(settings, *made)
    assert found.truncated_rows == sum(row.cut_tokens > 0 for row in made[-1]) > 0
    assert found.cut_tokens == sum(row.cut_tokens for row in made[-1]) and found.lengths.max <= 200
    assert "model.max_tokens=200" in found.problems[0]


def test_audit_of_bernoulli_contexts_allows_four_sigma():
    """check 4."""
    assert findings(*pipeline(contexts={"distractors": "random", "draw": "bernoulli"})).problems == ()


def test_audit_of_nothing_has_no_numbers_to_divide_by():
    found = audit([], [], {}, [], resolve(PLAIN))
    assert (found.contexts, found.rows, found.oracle_share, found.problems) == (0, 0, 0.0, ())


@pytest.mark.parametrize(
    "counts", [(3, 5), (10, 20, 30), (100, 90, 110, 95, 105), (0, 40, 0, 0), (7, 7, 7), (4,) * 9 + (30,)]
)
def test_uniform_p_equals_scipy(counts):
    assert uniform_p(counts) == pytest.approx(chisquare(counts).pvalue, rel=1e-9)


def test_audit_is_shown_as_table_json_and_picture(tmp_path):
    found = findings(*pipeline())
    console = Console(width=100, record=True, file=(tmp_path / "table.txt").open("w"))
    console.print(auditing.table(found))
    text = console.export_text()
    assert "180, 60.0%; asked for 60.0%" in text and "problems" in text and max(map(len, text.splitlines())) <= 100
    assert json.loads(json.dumps(auditing.as_json(found)))["oracle_share"] == 0.6
    path = auditing.picture(found, tmp_path / "new" / "audit.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 10_000
