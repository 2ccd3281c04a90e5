"""How long an answer may be follows how answers are written, wherever a model is asked, unless it is set."""

import pytest

from ragdist.config.loader import resolve
from ragdist.evaluation.summary import summarise
from ragdist.plan import layout, workload
from ragdist.records import Written
from ragdist.systems.duet import arbiters
from ragdist.systems.duet.disputes import Dispute
from tests import tiny
from tests.evaluation import world

LONG = "##begin_quote## " + "so " * 40 + "##end_quote##\n<ANSWER>: 104"


@pytest.mark.parametrize(
    ("answer", "max_tokens", "told", "wanted"),
    [
        ("plain", 4096, 0, 32),
        ("reasoned", 4096, 0, 256),
        ("reasoned", 300, 0, 150),  # half of what the model reads
        ("reasoned", 64, 0, 32),
        ("plain", 64, 0, 32),
        ("plain", 4096, 40, 40),
        ("reasoned", 4096, 8, 8),
    ],
)
def test_answers_are_as_long_as_they_are_written_unless_told(answer, max_tokens, told, wanted):
    settings = reasoned(answer=answer, max_tokens=max_tokens, told=told)
    assert settings.answer_tokens == wanted


def reasoned(answer="reasoned", max_tokens=1024, told=0, **more):
    given = {"prompts": {"answer": answer}, "model": {"max_tokens": max_tokens}, "contexts": {"documents": 4}}
    return resolve(given | {"evaluation": {"max_new_tokens": told, "conditions": ["oracle"], "resamples": 100}} | more)


def test_reasoned_answers_are_not_cut_before_their_answer(tmp_path):
    """With 32 tokens every one of them ended within its reasoning, and scored 0."""
    for settings, ended in ((reasoned(), True), (reasoned(told=32), False)):
        said = world.evaluate(
            world.RuleWriter(lambda asked, documents: LONG),
            tmp_path / str(ended),
            settings,
            questions=world.QUESTIONS[4:5],
        )
        assert [(row.ended, row.em) for row in said] == [(ended, float(ended))]
        (case,) = world.cases(settings, world.QUESTIONS[4:5])
        assert len(case.prompt.tokens) + settings.answer_tokens <= settings.model.max_tokens
    assert summarise({"rule": said}, world.QUESTIONS, settings, {}).cells[0].unfinished == 1


def test_plans_and_summaries_count_with_the_same_length(tmp_path):
    settings = reasoned(run={"folder": str(tmp_path)}, corpus={"source": "records", "questions": ["q.jsonl"]})
    assert workload.examples(settings).answer == 256
    assert layout.make(settings, "atm", None).groups[1].work.answer == 256

    class Told:
        def write(self, prompts, *, max_new_tokens, seed):
            for prompt in prompts:
                yield [Written(prompt_id=prompt.id, sample=0, text=str(max_new_tokens), tokens=1, ended=True)]

    ask = arbiters.by_answerer(Told(), tiny.tokenizer(), tmp_path, "base", settings)
    assert ask([(Dispute("q", "Which?", "left", "right"), False)]) == ["256"]
