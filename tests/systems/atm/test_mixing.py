from collections import Counter
from dataclasses import replace

import pytest
from pydantic import ValidationError
from scipy.stats import binomtest, chisquare

from ragdist.config import Settings
from ragdist.data.attacks.orders import ORDERS
from ragdist.systems.atm import mixing
from ragdist.systems.atm.forging import forge
from ragdist.systems.atm.training_rows import attacked_lists
from tests import tiny
from tests.data.attack import Rules, opened

ROWS = 160


def settings(**atm):
    return Settings.model_validate({"atm": {"samples": 5, "max_new_tokens": 200, **atm}})


def many(questions):
    """Each question under many names, so that shares can be counted."""
    return [replace(question, id=f"{question.id}-{n}") for question in questions for n in range(ROWS // len(questions))]


def forged(questions, version=0, round=0):
    return forge(Rules(version=version), questions, round, settings())[0]


def shown_ids(rows):
    return {row.id: set(row.about.split(",")) for row in rows}


def test_paper_shows_every_question_with_all_its_forgeries():
    rows, notes = attacked_lists(Rules(), opened(), forged(opened()), 0, settings())
    assert notes["attacked"] == len(rows) == 4 and notes["replayed"] == 0
    assert all(len(ids) == 8 for ids in shown_ids(rows).values())


def test_mix_shows_each_kind_of_list_in_its_share():
    """By binomial test; what each list holds is checked by id."""
    questions = many(opened())
    mix = {"clean": 0.3, "absent": 0.1, "oracle_alone": 0.2}
    rows, _ = attacked_lists(Rules(), questions, forged(questions), 0, settings(mix=mix))
    kinds = Counter[str]()
    for row, question in zip(rows, questions, strict=True):
        ids, oracle = set(row.about.split(",")), question.document_ids[1]
        documents = set(question.document_ids)
        kind = {
            frozenset(documents): "clean",
            frozenset(documents - {oracle}): "absent",
            frozenset({oracle}): "oracle_alone",
        }.get(frozenset(ids), "attacked")
        kinds[kind] += 1
        assert kind != "attacked" or (documents < ids and len(ids) == 8)
    for kind, share in {**mix, "attacked": 0.4}.items():
        assert binomtest(kinds[kind], len(rows), share).pvalue > 0.001, (kind, kinds)


@pytest.mark.parametrize(("curriculum", "round", "most"), [(False, 0, 5), (True, 0, 3), (True, 1, 5)])
def test_drawn_forgeries_are_from_none_to_all_alike_often(curriculum, round, most):
    """With two rounds the first draws from at most the first half of five forgeries, rounded up."""
    questions = many(opened())
    mix = {"forgeries": "drawn", "curriculum": curriculum}
    rows, _ = attacked_lists(Rules(), questions, forged(questions), round, settings(mix=mix, rounds=2))
    counts = Counter(len(ids) - 3 for ids in shown_ids(rows).values())
    assert set(counts) == set(range(most + 1)) and chisquare(list(counts.values())).pvalue > 0.001


def test_replay_takes_the_place_of_the_newest_forgeries_in_its_share():
    questions = many(opened())
    newest, earlier = forged(questions, version=1), forged(questions)
    replay = {"attacks": ["earlier", "template", "swap", "injection"], "share": 0.5}
    rows, notes = attacked_lists(Rules(), questions, newest, earlier, 0, settings(replay=replay))
    old, new = ({forgery.id for forgery in some} for some in (earlier, newest))
    documents = {id for question in questions for id in question.document_ids}
    kinds = Counter("new" if ids & new else "earlier" if ids & old else "made" for ids in shown_ids(rows).values())
    assert notes["replayed"] == len(rows) - kinds["new"]
    for kind, share in (("new", 0.5), ("earlier", 0.125), ("made", 0.375)):
        assert binomtest(kinds[kind], len(rows), share).pvalue > 0.001, kinds
    assert all(not (ids & new and ids & old) and ids & documents for ids in shown_ids(rows).values())


def test_replayed_attacks_state_wrong_answers_and_never_the_right_one():
    question = max(opened(), key=lambda question: len(question.wrong_answers))
    for name in ("template", "swap", "injection"):
        _, attack = mixing.attacks(question, [], [], 0, settings(replay={"attacks": [name]}).atm, seed=0)
        assert len({forgery.text for forgery in attack}) == len(attack) > 1
        for forgery in attack:
            assert forgery.states in question.wrong_answers and forgery.states in forgery.text
    swaps = mixing.attacks(question, [], [], 0, settings(replay={"attacks": ["swap"]}).atm, seed=0)[1]
    assert len({forgery.states for forgery in swaps}) == len(swaps)  # each says something else; a template agrees


def test_hardest_noise_is_that_under_which_the_answer_is_least_likely():
    """A model for which an injected instruction makes every right answer improbable."""
    order = ORDERS[0].split("{")[0]

    def score(example):
        said = tiny.tokenizer().decode(example.tokens[: example.prompt_tokens])
        return [-9.0 if order in said else -1.0] * (len(example.tokens) - example.prompt_tokens)

    replay = {"attacks": ["template", "injection"], "choice": "hardest"}
    model = Rules(score=score)
    rows, notes = attacked_lists(model, opened(), forged(opened()), 0, settings(replay=replay))
    assert notes["replayed"] == len(rows) == 4 and len(model.asked) == 12
    assert all(order in tiny.tokenizer().decode(row.tokens[1]) for row in rows)


def test_preferences_put_the_forged_answer_after_the_same_attacked_list():
    rows, _ = attacked_lists(Rules(), opened(), forged(opened()), 0, settings(preference_weight=0.5))
    for row, question in zip(rows, opened(), strict=True):
        prompts = [tokens[:at] for tokens, at in zip(row.tokens, row.prompt_tokens, strict=True)]
        answers = [tokens[at:] for tokens, at in zip(row.tokens, row.prompt_tokens, strict=True)]
        assert prompts[1] == prompts[2] != prompts[0] and answers[0] == answers[1]
        end = tiny.tokenizer().end
        assert answers[2] == (*tiny.tokenizer().encode(question.wrong_answers[0]).ids, end)


def test_order_of_questions_changes_no_row():
    questions = opened()
    beyond = settings(mix={"forgeries": "drawn", "clean": 0.3}, replay={"attacks": ["template", "injection"]})
    rows, _ = attacked_lists(Rules(), questions, forged(questions), 0, beyond)
    other, _ = attacked_lists(Rules(), questions[::-1], forged(questions)[::-1], 0, beyond)
    assert rows == other[::-1]


def test_shares_above_one_are_refused():
    with pytest.raises(ValidationError, match="wanted 1 at most"):
        settings(mix={"clean": 0.8, "absent": 0.3})
