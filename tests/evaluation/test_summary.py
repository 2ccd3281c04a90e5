"""What models are shown, that nothing asked is asked twice, and scores that are known by construction."""

import json
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from ragdist import config
from ragdist.errors import ConfigError, DataError
from ragdist.evaluation.ask import ask_cases
from ragdist.evaluation.cases import by_question, make_cases
from ragdist.evaluation.sheet import markdown
from ragdist.evaluation.summary import compare, summarise
from ragdist.records import Forgery
from tests import tiny
from tests.data.shown import parse
from tests.evaluation import world
from tests.evaluation.world import RuleWriter, majority, stubborn

BY_ID = {case.id: case for case in world.cases(world.settings())}


def shown(case):
    """The documents and question that stand in the prompt's tokens."""
    said = tiny.tokenizer().decode(case.prompt.tokens).partition("user\n")[2].removesuffix("\nassistant\n")
    return parse(said.removesuffix("\n"))


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    return {
        "base": world.evaluate(RuleWriter(stubborn), folder, world.settings(), "base"),
        "RAFT": world.evaluate(RuleWriter(majority), folder, world.settings(), "RAFT"),
    }


@pytest.fixture(scope="module")
def report(predictions):
    floor = {question.id: "103" for question in world.QUESTIONS}
    return summarise(predictions, world.QUESTIONS, world.settings(), floor)


def test_cases_hold_each_question_once_under_each_condition():
    assert Counter(case.condition for case in BY_ID.values()) == dict.fromkeys(
        ("closed_book", "oracle", "absent", "retrieved", "permuted", "attacked"), world.COUNT
    )
    assert len(BY_ID) == 6 * world.COUNT


def test_prompts_show_the_recorded_documents_in_order():
    for case in BY_ID.values():
        documents, asked = shown(case)
        assert [(d.title, d.text) for d in documents] == [(d.title, d.text) for d in case.documents]
        assert asked == world.QUESTIONS[int(case.question_id[1:])].text


def test_closed_book_shows_nothing_and_retrieved_shows_the_best_by_rank_check_26():
    assert shown(BY_ID["closed_book/q000"]) == ([], world.QUESTIONS[0].text)
    assert [d.id for d in BY_ID["retrieved/q001"].documents] == ["c051", "c001", "c052"]
    assert BY_ID["retrieved/q001"].oracle_ids == ("c001",)
    assert BY_ID["retrieved/q003"].oracle_ids == ()


def test_oracle_and_absent_lists_are_equally_long():
    for question in world.QUESTIONS:
        with_oracle, without = BY_ID[f"oracle/{question.id}"], BY_ID[f"absent/{question.id}"]
        assert len(with_oracle.documents) == len(without.documents) == 4
        assert with_oracle.oracle_ids == question.oracle_ids
        assert without.oracle_ids == ()


def test_attacked_list_is_the_oracle_list_and_every_forgery_once():
    for question in world.QUESTIONS:
        clean, attacked = BY_ID[f"oracle/{question.id}"], BY_ID[f"attacked/{question.id}"]
        forged = [forgery for forgery in world.FORGERIES if forgery.question_id == question.id]
        assert Counter(attacked.documents) == Counter(clean.documents + tuple(forged))
        assert set(attacked.forged_ids) == {forgery.id for forgery in forged}
        assert clean.forged_ids == ()


def test_permuted_list_is_the_attacked_one_without_its_forgeries():
    """T5: the same documents in the same order, so that the forgeries alone tell the two apart; asked without being
    named, and only where there is an attack."""
    for question in world.QUESTIONS:
        control, attacked = BY_ID[f"permuted/{question.id}"], BY_ID[f"attacked/{question.id}"]
        assert [one for one in attacked.documents if not isinstance(one, Forgery)] == [*control.documents]
        assert Counter(control.documents) == Counter(BY_ID[f"oracle/{question.id}"].documents)
        assert control.oracle_ids == question.oracle_ids and not control.forged_ids
    moved = [BY_ID[f"permuted/{q.id}"].documents != BY_ID[f"oracle/{q.id}"].documents for q in world.QUESTIONS]
    assert sum(moved) > 0.8 * world.COUNT  # 23 of 24 permutations
    assert world.settings(conditions=["oracle"]).evaluation.conditions == ("oracle",)


def test_permuted_list_that_is_the_clean_one_is_not_asked_again(tmp_path):
    """T5: lists of one document have one order."""
    chosen = world.settings(conditions=["oracle", "attacked"])
    chosen = chosen.model_copy(update={"contexts": config.ContextsConfig(documents=1)})
    writer = RuleWriter(majority)
    found = world.evaluate(writer, tmp_path, chosen)
    assert len(found) == 3 * world.COUNT and len(writer.asked) == 2 * world.COUNT
    answers = {(p.condition, p.question_id): p.answer for p in found}
    assert all(answers["permuted", q.id] == answers["oracle", q.id] == q.answers[0] for q in world.QUESTIONS)


def test_forgeries_stand_anywhere_in_the_list_with_equal_chance():
    counts = Counter()
    for seed in range(12):
        chosen = world.settings(conditions=["attacked"]).model_copy(update={"seed": seed})
        for case in world.cases(chosen):
            counts.update(at for at, document in enumerate(case.documents) if isinstance(document, Forgery))
    assert set(counts) == set(range(7))
    assert stats.chisquare([counts[at] for at in range(7)]).pvalue > 0.001


def test_a_case_depends_on_no_other_question_condition_or_order():
    few = world.cases(world.settings(conditions=["attacked", "absent"]), [world.QUESTIONS[40], world.QUESTIONS[3]])
    wanted = [f"{name}/{id}" for name in ("permuted", "attacked", "absent") for id in ("q040", "q003")]
    assert [case.id for case in few] == wanted
    assert all(case == BY_ID[case.id] for case in few)


def test_questions_without_oracle_are_asked_closed_absent_and_retrieved_only():
    asked = world.cases(world.settings(), [world.question(5, oracle=False)])
    assert [case.condition for case in asked] == ["closed_book", "absent", "retrieved"]


def test_nothing_to_ask_is_an_error_unless_nothing_was_wanted():
    unknown = [world.question(5, oracle=False)]
    with pytest.raises(DataError, match="none of 1 test questions can be asked under oracle, permuted, attacked"):
        world.cases(world.settings(conditions=["oracle", "attacked"]), unknown)
    assert world.cases(world.settings(conditions=[]), unknown) == []


def test_retrieval_is_not_judged_where_no_oracle_is_known(tmp_path):
    unknown = [world.question(5, oracle=False)]
    chosen = world.settings(conditions=["retrieved"])
    assert world.evaluate(RuleWriter(majority), tmp_path, chosen, questions=unknown)[0].retrieved_oracle is None


def test_questions_without_forgeries_are_not_attacked():
    found = make_cases(
        world.QUESTIONS[:1],
        world.CHUNKS,
        world.CANDIDATES,
        {},
        world.TitleRetriever(),
        tiny.tokenizer(),
        world.settings(conditions=["oracle", "attacked"]),
    )
    assert [(case.condition, case.wrong) for case in found] == [("oracle", ())]


def test_a_question_that_cannot_be_scored_stops_before_anything_is_asked():
    unusable = replace(world.QUESTIONS[1], id="bad", answers=("...",), dataset="nq_open")
    with pytest.raises(DataError, match="'bad'"):
        world.cases(world.settings(), [world.QUESTIONS[0], unusable])


def test_long_documents_are_cut_and_counted():
    chosen = world.settings().model_copy(update={"model": config.ModelConfig(max_tokens=170)})
    cut = [case.prompt.cut_tokens for case in world.cases(chosen) if case.condition == "attacked"]
    assert all(cut)
    assert all(len(case.prompt.tokens) + 16 <= 170 for case in world.cases(chosen))


def test_prompts_whose_answer_is_cut_off_are_counted_in_each_condition(tmp_path):
    """T6: all oracles of these have their answer behind long texts; prompts without an oracle lose none."""
    long = {i: replace(chunk, text="words " * 2000 + chunk.text) for i, chunk in world.CHUNKS.items()}
    chosen = world.settings(conditions=["closed_book", "oracle", "absent", "attacked"])
    given = (by_question(world.FORGERIES), world.TitleRetriever(), tiny.tokenizer(), chosen)
    for chunks, expected in ((world.CHUNKS, False), (long, True)):
        cases = list(make_cases(world.QUESTIONS[:3], chunks, world.CANDIDATES, *given))
        assert {case.condition for case in cases} == set(chosen.evaluation.conditions)
        for case in cases:
            assert case.prompt.cut_answer == (expected and case.condition in ("oracle", "permuted", "attacked"))
    writer = RuleWriter(majority)
    found = ask_cases("base", ["a"], writer, cases, world.QUESTIONS[:3], tmp_path, chosen)
    assert [row.cut_answer for row in found] == [case.prompt.cut_answer for case in cases]
    shown = summarise({"base": found}, world.QUESTIONS[:3], chosen, {})
    shares = {cell.condition: cell.cut_answers for cell in shown.cells}
    assert shares == {"closed_book": 0.0, "oracle": 1.0, "absent": 0.0, "permuted": 1.0, "attacked": 1.0}


def test_scores_of_known_rules_are_those_by_construction(report):
    def em(model):
        return {c.condition: c.em.mean for c in report.cells if c.model == model}

    third = 2 / 3  # the retriever misses every third question
    assert em("base") == dict.fromkeys(em("base"), 0.5)
    wanted = {"closed_book": 0, "oracle": 1, "permuted": 1, "absent": 0, "retrieved": third, "attacked": 0}
    assert em("RAFT") == pytest.approx(wanted)
    assert report.cell("RAFT", "retrieved").retrieved_oracle == pytest.approx(third)
    assert report.cell("RAFT", "oracle").retrieved_oracle is None
    assert report.cell("RAFT", "attacked").states_forgery == 1
    assert report.cell("RAFT", "oracle").states_forgery == 0
    assert report.cell("base", "attacked").states_forgery == 0
    assert report.cell("RAFT", "oracle").untagged is None  # plain answers: a tag is not expected
    assert all(cell.rows == world.COUNT and cell.unfinished == 0 for cell in report.cells)


def test_attack_success_counts_only_what_was_right_before(report):
    found = {(attack.model, attack.metric): attack for attack in report.attacks}
    assert (found["RAFT", "em"].rows, found["RAFT", "em"].success.mean) == (world.COUNT, 1)
    assert (found["base", "em"].rows, found["base", "em"].success.mean) == (world.COUNT // 2, 0)


def test_attack_success_is_measured_against_the_permuted_list(predictions):
    """T5: a reader of the first document loses answers to the permutation and none to forgeries that are not read; its
    attack success is zero, though the clean list scores far higher than the attacked one."""
    found = [replace(p, em=float(p.condition == "oracle")) for p in predictions["RAFT"]]
    by_id = {(p.condition, p.question_id): p for p in found}
    half = {q.id: float(number % 2) for number, q in enumerate(world.QUESTIONS)}
    for condition in ("permuted", "attacked"):
        for q in world.QUESTIONS:
            by_id[condition, q.id] = replace(by_id[condition, q.id], em=half[q.id])
    report = summarise({"RAFT": by_id.values()}, world.QUESTIONS, world.settings(), {})
    (attack,) = (attack for attack in report.attacks if attack.metric == "em")
    assert (attack.rows, attack.success.mean) == (world.COUNT // 2, 0.0)
    assert report.cell("RAFT", "oracle").em.mean == 1.0 and report.cell("RAFT", "permuted").em.mean == 0.5


def test_comparing_pairs_questions_whatever_their_order_and_what_is_missing(predictions):
    """A survivor among mutants: pairing by position."""
    rows = {p.question_id: p for p in predictions["RAFT"] if p.condition == "oracle"}
    ids = sorted(rows)
    before = {id: replace(rows[id], em=float(number < 60)) for number, id in enumerate(ids[:110])}
    after = {id: replace(rows[id], em=float(id in ids[:60] or id >= ids[100])) for id in reversed(ids[10:])}
    change = compare(before, after, "em", world.settings().evaluation, seed=0)
    assert (change.rows, change.change.mean) == (100, pytest.approx(0.1)) and change.change.low > 0


def test_questions_whose_documents_cannot_be_made_false_are_counted_in_the_report(predictions):
    """T3: they are asked under every condition but the attack."""
    found = [p for p in predictions["RAFT"] if p.condition != "attacked" or p.question_id >= "q003"]
    report = summarise({"RAFT": found}, world.QUESTIONS, world.settings(), {})
    assert report.unforged == 3
    assert "3 questions are not asked, as no document could be made false." in markdown(report.sheet())


def test_attack_success_of_a_model_that_is_never_right_is_not_defined(predictions):
    wrong = {"base": [replace(p, em=0.0, subspan=0.0) for p in predictions["base"]]}
    report = summarise(wrong, world.QUESTIONS, world.settings(), {})
    assert [attack.success for attack in report.attacks] == [None, None]
    assert report.floor is None


def test_a_mixed_list_is_the_mean_of_its_two_sides_question_by_question(predictions):
    """Right with the oracle and wrong without is 0.75 right where retrieval finds the oracle in 75%."""
    chosen = world.settings(oracle_share=0.75)
    report = summarise(predictions, world.QUESTIONS, chosen, {})
    assert report.cell("RAFT", "mixed").em == (0.75, 0.75, 0.75)
    assert report.cell("base", "mixed").em.mean == 0.5 and report.cell("RAFT", "mixed").rows == world.COUNT
    (change,) = (c for c in report.changes if c.condition == "mixed" and c.metric == "em")
    assert change.change.mean == pytest.approx(0.25)  # half of the questions gain 0.75, half lose 0.25
    assert "oracle in 75%" in markdown(report.sheet())
    assert "mixed" not in summarise(predictions, world.QUESTIONS, world.settings(), {}).conditions
    with pytest.raises(ConfigError, match=r"evaluation\.oracle_share=0\.5 mixes .* absent"):
        world.settings(oracle_share=0.5, conditions=["oracle"])


def test_utilization_parts_questions_by_what_is_known_without_documents(predictions):
    """Of two questions that are not known one is read, of two known one is destroyed (arXiv 2603.11513)."""
    rows = [p for p in predictions["RAFT"] if p.question_id < "q004" and p.condition in ("closed_book", "oracle")]
    right = {("closed_book", 0), ("closed_book", 1), ("oracle", 1), ("oracle", 2)}
    scored = [replace(p, em=float((p.condition, int(p.question_id[1:])) in right)) for p in rows]
    report = summarise({"RAFT": scored}, world.QUESTIONS, world.settings(), {})
    (found,) = (one for one in report.utilizations if one.metric == "em")
    assert (found.condition, found.unknown, found.known) == ("oracle", 2, 2)
    assert (found.used.mean, found.destroyed.mean) == (0.5, 0.5)
    every = summarise(predictions, world.QUESTIONS, world.settings(), {})
    found = {(one.model, one.condition): one for one in every.utilizations if one.metric == "em"}
    assert found["RAFT", "oracle"].destroyed is None and found["RAFT", "oracle"].used.mean == 1
    assert found["RAFT", "retrieved"].used.mean == pytest.approx(2 / 3)
    assert found["base", "oracle"].used.mean == found["base", "oracle"].destroyed.mean == 0
    assert "of these right with them" in markdown(every.sheet())


def test_changes_are_paired_and_put_into_words(report):
    words = {change.condition: change.verdict for change in report.changes if change.metric == "em"}
    assert words["oracle"].startswith("+0.50 [+0.4")
    assert words["attacked"].startswith("-0.50 [-0.")
    assert [change.rows for change in report.changes] == [world.COUNT] * 15


def test_no_change_is_said_where_a_model_meets_itself_or_has_few_rows(predictions):
    twice = {"base": predictions["base"], "again": [replace(p, model="again") for p in predictions["base"]]}
    report = summarise(twice, world.QUESTIONS, world.settings(), {})
    assert {change.verdict for change in report.changes} == {"no difference shown, +0.00 [+0.00, +0.00]"}
    few = summarise(predictions, world.QUESTIONS[:20], world.settings(), {})
    assert all("fewer than 100 questions" in change.verdict for change in few.changes)
    assert {cell.rows for cell in few.cells} == {20}


def test_floor_is_scored_on_the_questions_that_were_asked(report):
    assert (report.floor.rows, report.floor.em.mean) == (world.COUNT, pytest.approx(1 / world.COUNT))


def test_predictions_do_not_depend_on_batches_check_70(tmp_path, predictions):
    for batch in (1, 7, 1000):
        again = world.evaluate(RuleWriter(majority, batch=batch), tmp_path / str(batch), world.settings(), "RAFT")
        assert again == predictions["RAFT"]


def test_a_real_model_answers_alike_twice_and_in_any_batch_check_70(tmp_path):
    from ragdist.lm.answerer import ModelAnswerer
    from ragdist.lm.load import load_model, load_tokenizer

    held = config.ModelConfig(source=str(tiny.model_folder(tmp_path)), dtype="float32", max_tokens=1024)
    model, tokenizer, asked = load_model(held), load_tokenizer(held), world.QUESTIONS[:6]
    chosen = world.settings(conditions=["oracle", "attacked"], perplexity=True)
    found = []
    for run, tokens in enumerate((4096, 4096, 600)):
        answerer = ModelAnswerer([model], tokenizer, tokens)
        given = world.cases(chosen, asked)
        found.append(ask_cases("tiny", held.source, answerer, given, asked, tmp_path / str(run), chosen))
    assert found[0] == found[1]
    assert [replace(p, perplexity=None) for p in found[2]] == [replace(p, perplexity=None) for p in found[0]]
    assert [p.perplexity for p in found[2]] == pytest.approx([p.perplexity for p in found[0]], rel=1e-4)


@pytest.mark.parametrize("torn", [False, True])
def test_an_evaluation_that_died_asks_only_what_is_missing(tmp_path, predictions, torn):
    with pytest.raises(ConnectionError):
        world.evaluate(RuleWriter(majority, fail_after=3), tmp_path, world.settings(), "RAFT")
    path = tmp_path / "RAFT.jsonl"
    assert len(path.read_text().splitlines()) == 1 + 3 * 16
    if torn:
        path.write_bytes(path.read_bytes()[:-25])
    later = RuleWriter(majority)
    assert world.evaluate(later, tmp_path, world.settings(), "RAFT") == predictions["RAFT"]
    every = len({(case.condition == "closed_book", case.prompt.tokens) for case in BY_ID.values()})
    assert len(later.asked) == len(set(later.asked)) == every - 3 * 16 + torn
    stored = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert len({(row["condition"], row["question_id"]) for row in stored}) == len(stored) == 6 * world.COUNT


def test_an_evaluation_killed_by_the_system_resumes(tmp_path, predictions):
    code = f"""
import os, signal
from pathlib import Path
from tests.evaluation.world import RuleWriter, evaluate, majority, settings
def rule(asked, documents):
    if asked == "What is the default of `size` in `m.f60`?" and not documents:
        os.kill(os.getpid(), signal.SIGKILL)
    return majority(asked, documents)
evaluate(RuleWriter(rule), Path({str(tmp_path)!r}), settings(), "RAFT")
"""
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    later = RuleWriter(majority)
    assert world.evaluate(later, tmp_path, world.settings(), "RAFT") == predictions["RAFT"]
    assert 60 < len(later.asked) <= 60 + 16


def test_a_finished_evaluation_asks_nothing(tmp_path):
    first = world.evaluate(RuleWriter(majority), tmp_path, world.settings())
    later = RuleWriter(majority)
    assert world.evaluate(later, tmp_path, world.settings()) == first
    assert later.asked == []


def test_other_prompts_answers_or_weights_start_anew(tmp_path):
    two = world.QUESTIONS[:2]
    base = world.settings(conditions=["oracle"])
    weights = tmp_path / "model"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"1")

    def ask(chosen, questions):
        writer = RuleWriter(majority)
        asked = world.cases(chosen, questions)
        ask_cases("RAFT", str(weights), writer, asked, questions, tmp_path, chosen)
        return len(writer.asked)

    assert [ask(base, two), ask(base, two)] == [2, 0]
    assert ask(base.model_copy(update={"contexts": config.ContextsConfig(documents=3)}), two) == 2
    assert ask(world.settings(conditions=["oracle"], max_new_tokens=8), two) == 2
    assert ask(base, [replace(two[0], answers=("7",)), two[1]]) == 2
    (weights / "model.safetensors").write_bytes(b"22")
    assert [ask(base, two), ask(base, two)] == [2, 0]


def test_perplexity_is_read_on_request_and_kept(tmp_path):
    chosen = world.settings(conditions=["oracle"], perplexity=True)
    first = world.evaluate(RuleWriter(majority), tmp_path, chosen)
    assert [p.perplexity for p in first] == pytest.approx([2.0] * world.COUNT)
    assert world.evaluate(RuleWriter(majority), tmp_path, chosen) == first
    lines = (tmp_path / "rule.perplexity.jsonl").read_text().splitlines()
    assert len(lines) == 1 + world.COUNT
    report = summarise({"rule": first}, world.QUESTIONS, chosen, {})
    assert report.cell("rule", "oracle").perplexity == pytest.approx(2)


def test_the_answer_that_is_read_is_the_one_that_training_shows():
    case = BY_ID["oracle/q004"]
    assert tiny.tokenizer().decode(case.answer[:-1]) == "104"
    assert case.answer[-1] == tiny.tokenizer().end


def test_answers_cut_by_the_limit_are_counted(tmp_path):
    chosen = world.settings(conditions=["oracle"], max_new_tokens=1)
    predictions = world.evaluate(RuleWriter(lambda *_: "It is one hundred"), tmp_path, chosen)
    report = summarise({"rule": predictions}, world.QUESTIONS, chosen, {})
    assert report.cell("rule", "oracle").unfinished == 1


@pytest.mark.parametrize(
    ("rule", "valid", "untagged"),
    [
        (lambda asked, docs: f"##begin_quote## {docs[0].text} ##end_quote##\n<ANSWER>: 1", 1, 0),
        (lambda asked, docs: "##begin_quote## made up ##end_quote##\n##Answer: 1", 0, 0),
        (lambda asked, docs: f"##begin_quote## {docs[0].text}\n1", 0, 1),
        (lambda asked, docs: "1", None, 1),
    ],
)
def test_quotes_and_tags_of_reasoned_answers_are_counted(tmp_path, rule, valid, untagged):
    chosen = world.settings(conditions=["oracle"], max_new_tokens=200)
    chosen = chosen.model_copy(update={"prompts": config.PromptsConfig(answer="reasoned")})
    predictions = world.evaluate(RuleWriter(rule), tmp_path, chosen)
    cell = summarise({"rule": predictions}, world.QUESTIONS, chosen, {}).cell("rule", "oracle")
    assert (cell.quotes_valid, cell.untagged) == (valid, untagged)
    assert tiny.tokenizer().decode(world.cases(chosen)[4].answer[:-1]) == "<ANSWER>: 104"


def test_yes_no_maybe_data_gets_label_accuracy_check_68(tmp_path):
    labels = ("yes", "no", "maybe", "yes")
    asked = [
        replace(question, answers=(label,), dataset="pubmedqa")
        for question, label in zip(world.QUESTIONS, labels, strict=False)
    ]
    said = {question.text: text for question, text in zip(asked, ("Yes.", "no", "yes", "yes"), strict=True)}
    chosen = world.settings(conditions=["closed_book"])
    writer = RuleWriter(lambda text, _: said[text])
    predictions = world.evaluate(writer, tmp_path, chosen, questions=asked)
    cell = summarise({"rule": predictions}, asked, chosen, {}).cell("rule", "closed_book")
    assert cell.three_way == (4, 0.75, pytest.approx(0.6))
    assert cell.two_way == (3, 1.0, 1.0)


def test_free_answers_get_no_label_accuracy(report):
    assert all(cell.three_way is None and cell.two_way is None for cell in report.cells)
