"""What forgeries become: grades, pairs for the attacker, lists for the generator; and what both may learn first.

Every function here runs beside a model, takes rows of one microbatch and gives rows and sums of what happened.
Rows are joined by id, never by position.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ragdist.config import AtmConfig, Settings
from ragdist.data import contexts, prompts
from ragdist.data import template_attack as template
from ragdist.data.contexts import permuted
from ragdist.data.pipeline import Pipeline
from ragdist.data.prompts import Showable, fit, golden_of, prompt, renderer
from ragdist.draws import draw, order_for, rng_for
from ragdist.errors import ConfigError, DataError
from ragdist.records import (
    Bundle,
    Chunk,
    Context,
    Example,
    Forgery,
    Grade,
    OpenQuestion,
    Page,
    Prompt,
    Question,
    Split,
    content_id,
)
from ragdist.roles import Model, Tokenizer
from ragdist.storage.stages import Counted, Rows, Stage
from ragdist.systems.atm import mixing
from ragdist.systems.atm.forging import Assignment, assignment, assignments, continued, whole, wrong_answer

WRONG_ANSWERS = 3
"""Wrong answers that the attacker's forgeries argue for, one a round in turn."""
ROUNDING = 1e-3
"""Perplexities that differ by a smaller share are one: in bfloat16, batches and padding move them by as much."""
Notes = dict[str, float]


def open_questions(pipeline: Pipeline, split: Split) -> Rows[OpenQuestion]:
    """Questions with the texts that are shown with them, for ATM: as `contexts` has them to train on, with their
    oracles to be judged by; or all as they are retrieved (`atm.lists`)."""
    if pipeline.settings.prompts.answer == "cited":
        raise ConfigError(
            "prompts.answer=cited: ATM's generator learns one answer to lists in which documents change their places, "
            "so that no number stays right; set prompts.answer to plain, sentence or reasoned"
        )
    config, seed, retrieved = (
        pipeline.settings.contexts,
        pipeline.settings.seed,
        pipeline.settings.atm.lists == "retrieved",
    )
    inputs = {"contexts": pipeline.contexts.fingerprint, "chunks": pipeline.chunks.fingerprint}
    settings = {"split": split, **pipeline.settings.prompts.model_dump(include={"answer"})}
    if retrieved:
        settings |= {"lists": "retrieved", **pipeline.found_by}

    def produce() -> Counted[OpenQuestion]:
        trained = {context.question_id: context for context in pipeline.contexts} if split == "train" else {}
        listed = _retrieved(pipeline, split) if retrieved else trained
        with_oracle = 0
        pool = sorted({answer for question in pipeline.questions for answer in question.answers[:1]})
        for question, found in zip(pipeline.questions, pipeline.candidates, strict=True):
            if question.split != split or not (question.id in trained if split == "train" else question.oracle_ids):
                continue
            shown = listed.get(question.id) or contexts.assemble(question, found, True, config, seed)
            wrong = template.wrong_answers(question, pool, count=WRONG_ANSWERS, seed=seed)
            documents = [pipeline.chunk_by_id[i] for i in shown.chunk_ids]
            target = prompts.target(question, pipeline.settings.prompts)
            with_oracle += bool(shown.oracle_positions)
            yield open_question(question, documents, shown.oracle_positions, target, wrong)
        return {"with_oracle": with_oracle}

    return pipeline.store.make(Stage(f"open-{split}", inputs, settings, version=2), OpenQuestion, produce)


def _retrieved(pipeline: Pipeline, split: Split) -> dict[str, Context]:
    """The best documents for each question, in their order, and which of them hold its answer."""
    asked = [question for question in pipeline.questions if question.split == split]
    found = pipeline.finder.search([question.text for question in asked], pipeline.settings.contexts.documents)
    ids = [tuple(hit.chunk_id for hit in hits) for hits in found]
    return {
        question.id: Context(
            question_id=question.id,
            chunk_ids=shown,
            oracle_positions=tuple(at for at, id in enumerate(shown) if id in question.oracle_ids),
        )
        for question, shown in zip(asked, ids, strict=True)
    }


def open_question(
    question: Question,
    documents: Sequence[Chunk],
    oracle_positions: Sequence[int],
    target: str,
    wrong_answers: Sequence[str],
) -> OpenQuestion:
    """The question with all that its forgers and readers need, in one record.

    Args:
        question: what is asked.
        documents: what it is shown with, in order.
        oracle_positions: indexes of the documents that hold the answer.
        target: what the generator learns to answer, `prompts.target`.
        wrong_answers: what forgeries argue for, `forgeries.wrong_answers`.

    Raises:
        DataError: there is no wrong answer.
    """
    if not wrong_answers:
        raise DataError(f"question {question.id!r} has no wrong answer to argue for; give wrong_answers in the data")
    return OpenQuestion(
        id=question.id,
        text=question.text,
        answers=question.answers,
        target=target,
        wrong_answers=tuple(wrong_answers),
        document_ids=tuple(document.id for document in documents),
        titles=tuple(document.title for document in documents),
        texts=tuple(document.text for document in documents),
        oracle_positions=tuple(oracle_positions),
        topic=question.topic,
        dataset=question.dataset,
        all_answers_required=question.all_answers_required,
    )


def grade(
    model: Model, questions: Sequence[OpenQuestion], forgeries: Sequence[Forgery], settings: Settings
) -> tuple[list[Grade], Notes]:
    """exp(mean negative log-probability) of the right answer, end token included, after each forgery shown alone.

    A value that is no finite number is kept as it is and counted as `broken`.

    Raises:
        DataError: a forgery's question is not here, or question and answer do not fit into `model.max_tokens`.
    """
    by_id = {question.id: question for question in questions}
    rows: dict[str, Example] = {}
    for forgery in forgeries:
        question = _question(forgery, by_id)
        answer = _answer(question, model.tokenizer)
        asked = _asked(question, [forgery], len(answer), model.tokenizer, settings)
        rows[forgery.id] = Example(
            id=forgery.id, tokens=(*asked.tokens, *answer), prompt_tokens=len(asked.tokens), cut_tokens=asked.cut_tokens
        )
    read_by_id = dict(pair for batch in model.read(list(rows.values())) for pair in batch)
    grades = [
        Grade(
            forgery_id=forgery.id,
            question_id=forgery.question_id,
            sample=forgery.number,
            perplexity=_perplexity(read_by_id[forgery.id]),
            tokens=len(read_by_id[forgery.id]),
            prompt_hash=forgery.prompt_hash,
        )
        for forgery in forgeries
    ]
    finite = [grade.perplexity for grade in grades if math.isfinite(grade.perplexity)]
    return grades, {
        "graded": len(grades),
        "perplexity_sum": math.fsum(finite),
        "broken": len(grades) - len(finite),
        "tokens": sum(len(row.tokens) for row in rows.values()),
    }


def preferences(
    model: Model,
    questions: Sequence[OpenQuestion],
    forgeries: Sequence[Forgery],
    grades: Sequence[Grade],
    round: int,
    settings: Settings,
) -> tuple[list[Bundle], Notes]:
    """(chosen, rejected) of each question, or of each of its prompts: the most and the least misleading forgery.

    They follow the very prompt that they were sampled from, token for token as they were sampled. There is no pair
    where a grade is no number (`broken`), where the two are one text or their grades differ by no more than rounding
    does (`equal`), or where only one forgery came of the prompt (`single`).

    Raises:
        DataError: grades are of other forgeries, or the forgeries were written for another prompt than this one.
    """
    by_id = {question.id: question for question in questions}
    texts = {forgery.id: forgery for forgery in forgeries}
    groups: dict[tuple[str, str], list[Grade]] = {}
    for graded in grades:
        if graded.forgery_id not in texts:
            raise DataError(f"a grade is of forgery {graded.forgery_id!r}, which is not among those of its microbatch")
        forgery = texts[graded.forgery_id]
        groups.setdefault((forgery.question_id, forgery.prompt_hash), []).append(graded)
    counts = Counter({"pairs": 0, "broken": 0, "equal": 0, "single": 0, "tokens": 0})
    bundles: list[Bundle] = []
    # By question and prompt, not by arrival: the same grades in any order give the same rows.
    for (question_id, prompt_hash), group in sorted(groups.items()):
        if why := _no_pair(group):
            counts[why] += 1
            continue
        question = _question(texts[group[0].forgery_id], by_id)
        asked = _sampled_from(question, prompt_hash, round, model.tokenizer, settings)
        ranked = sorted(group, key=lambda graded: (graded.perplexity, graded.forgery_id))
        chosen, rejected = texts[ranked[-1].forgery_id], texts[ranked[0].forgery_id]
        written = [_text(one, asked, model.tokenizer) for one in (chosen, rejected)]
        if written[0] == written[1] or whole(chosen) == whole(rejected):
            counts["equal"] += 1
            continue
        if settings.atm.prefer == "lowest":
            chosen, rejected = rejected, chosen
            written.reverse()
        only = sum(other == question_id for other, _ in groups) == 1
        bundles.append(
            _bundle(
                question_id if only else f"{question_id}-{prompt_hash}",
                [(asked.prompt, tokens) for tokens in written],
                about=f"{chosen.id}>{rejected.id}",
            )
        )
    counts["pairs"] = len(bundles)
    counts["tokens"] = sum(len(tokens) for bundle in bundles for tokens in bundle.tokens)
    return bundles, dict(counts)


def attacked_lists(
    model: Model, questions: Sequence[OpenQuestion], forgeries: Sequence[Forgery], *more: Any
) -> tuple[list[Bundle], Notes]:
    """(clean, attacked) of each question: the same answer after its list D and after D' = permutation of D + forgeries.

    D stands in its recorded order. Texts of D' are those of D and of the forgeries, letter by letter; every order is
    equally likely, drawn by (seed, round, question). A question without forgeries keeps its documents, permuted. Where
    D' is too long for `model.max_tokens`, a document of D is cut to the same text in both, so that they differ in
    forgeries and order alone; a row whose golden documents then no longer show the answer (`cut_answers`, on both sides
    alike) is left out where `prompts.cut_answers` says so. In `variant: released_code` the rows are the same: the loss
    takes its answer term from the other sequence.

    `atm.mix` and `atm.replay` may put another list in the place of D', see `mixing`. With `atm.preference_weight` a
    third sequence is the forged answer after D'.

    Args:
        model: the generator; reads only where `atm.replay.choice` is hardest.
        questions: of one microbatch.
        forgeries: of the newest attacker.
        more: forgeries of earlier attackers, a sequence for each; then the round and the settings.

    Raises:
        DataError: question and answer do not fit into `model.max_tokens`.
    """
    *earlier, round, settings = more
    config, seed = settings.atm, settings.seed
    newest, before = _by_question(questions, forgeries), [_by_question(questions, rows) for rows in earlier]
    among = {
        question.id: mixing.attacks(
            question, newest[question.id], [rows[question.id] for rows in before], round, config, seed
        )
        for question in questions
    }
    picked = _picked(model, questions, among, round, settings)
    counts = Counter[str](dict.fromkeys(("cut_prompts", "cut_clean", "cut_attacked", "cut_answers", "dropped"), 0))
    counts["forgeries"], bundles = len(forgeries), []
    for question in questions:
        name, attack = _name(question, round), picked[question.id]
        attacked = permuted(mixing.shown(question, attack, name, round, config, seed), (), name, seed)
        answers = _answers(question, attack, model.tokenizer, config)
        clean, hostile = _both(question, attacked, max(map(len, answers)), model.tokenizer, settings)
        short = [one.cut_tokens > 0 for one in (clean, hostile)]
        counts.update(cut_prompts=sum(short), cut_clean=short[0], cut_attacked=short[1], cut_answers=clean.cut_answer)
        counts["replayed"] += attack is not among[question.id][0]
        counts["attacked"] += len(attacked) > len(question.documents)
        if clean.cut_answer and settings.prompts.cut_answers == "drop":
            counts["dropped"] += 1
            continue
        about = ",".join(document.id for document in attacked)
        rows = zip((clean, hostile, hostile), answers, strict=False)
        bundles.append(_bundle(question.id, list(rows), about))
    counts["rows"] = len(bundles)
    counts["without_forgeries"] = sum(not rows for rows in newest.values())
    counts["tokens"] = sum(len(tokens) for bundle in bundles for tokens in bundle.tokens)
    return bundles, {name: float(count) for name, count in counts.items()}


def _by_question(questions: Sequence[OpenQuestion], forgeries: Iterable[Forgery]) -> dict[str, list[Forgery]]:
    known = {question.id: question for question in questions}
    found: dict[str, list[Forgery]] = {question.id: [] for question in questions}
    for forgery in sorted(forgeries, key=lambda forgery: forgery.number):
        found[_question(forgery, known).id].append(forgery)
    return found


def _name(question: OpenQuestion, round: int) -> str:
    return f"{round}/{question.id}"


def _picked(
    model: Model,
    questions: Sequence[OpenQuestion],
    among: Mapping[str, Sequence[mixing.Attack]],
    round: int,
    settings: Settings,
) -> dict[str, mixing.Attack]:
    """The attack of each question's row: drawn, or that under which the model now finds the answer most perplexing."""
    if settings.atm.replay.choice == "drawn":
        return {q.id: mixing.drawn(among[q.id], _name(q, round), settings.atm, settings.seed) for q in questions}
    rows = []
    for question in questions:
        answer = _answer(question, model.tokenizer)
        for number, attack in enumerate(among[question.id]):
            attacked = attacked_list(question, attack, _name(question, round), settings.seed)
            asked = _asked(question, attacked, len(answer), model.tokenizer, settings)
            id = f"{question.id}/{number}"
            rows.append(Example(id=id, tokens=(*asked.tokens, *answer), prompt_tokens=len(asked.tokens)))
    read = {id: _perplexity(logs) for batch in model.read(rows) for id, logs in batch}

    def hardest(question: OpenQuestion) -> mixing.Attack:
        attacks = among[question.id]
        return attacks[max(range(len(attacks)), key=lambda number: (read[f"{question.id}/{number}"], -number))]

    return {question.id: hardest(question) for question in questions}


def _answers(
    question: OpenQuestion, attack: mixing.Attack, tokenizer: Tokenizer, config: AtmConfig
) -> list[tuple[int, ...]]:
    """What stands after the clean list, after the attacked one, and perhaps the forged answer after that."""
    answer = _answer(question, tokenizer)
    if not config.preference_weight:
        return [answer, answer]
    wrong = next((forgery.states for forgery in attack if forgery.states), question.wrong_answers[0])
    return [answer, answer, (*tokenizer.encode(wrong).ids, tokenizer.end)]


def attacked_list(question: OpenQuestion, forgeries: Iterable[Forgery], name: str, seed: int) -> list[Page | Forgery]:
    """The question's documents and the forgeries, each once, in an order that belongs to (seed, name)."""
    return permuted(question.documents, forgeries, name, seed)


def _both(
    question: OpenQuestion, attacked: Sequence[Page | Forgery], room: int, tokenizer: Tokenizer, settings: Settings
) -> list[Prompt]:
    """The prompts of D and of the attacked list, in which each document has the same text."""
    known = {page.id for page in question.documents}
    documents: list[Page | Forgery] = [*question.documents, *(one for one in attacked if one.id not in known)]
    places = {one.id: place for place, one in enumerate(documents)}
    order = [places[one.id] for one in attacked]
    render = renderer(question.text, tokenizer, settings.prompts)
    return fit(
        documents,
        [lambda shown: render(shown[: len(question.texts)]), lambda shown: render([shown[at] for at in order])],
        tokenizer,
        id=question.id,
        max_tokens=settings.model.max_tokens,
        room=room,
        golden=golden_of(question, question.oracle_positions),
    )


def first_tuning(model: Model, questions: Sequence[OpenQuestion], settings: Settings) -> tuple[list[Bundle], Notes]:
    """The answer of each question after its list, and in `atm.closed_book_share` of the rows after no document.

    The share is exact in a microbatch where it gives a whole number of rows; else the odd row is drawn, so that it is
    right in the mean. It is one of the rows that are left, where `prompts.cut_answers` drops some.

    Raises:
        DataError: question and answer do not fit into `model.max_tokens`.
    """
    tokenizer = model.tokenizer
    listed = {
        one.id: _asked(one, one.documents, len(_answer(one, tokenizer)), tokenizer, settings, one.oracle_positions)
        for one in questions
    }
    cut = {question_id for question_id, asked in listed.items() if asked.cut_answer}
    dropped = cut if settings.prompts.cut_answers == "drop" else set()
    questions = [question for question in questions if question.id not in dropped]
    ids = sorted(question.id for question in questions)
    odd = draw(settings.seed, "closed book", content_id(*ids))
    count = math.floor(settings.atm.closed_book_share * len(ids) + odd)
    closed = {ids[place] for place in order_for(settings.seed, "closed book", content_id(*ids), len(ids))[:count]}
    bundles = []
    for question in questions:
        answer = _answer(question, tokenizer)
        asked = _asked(question, (), len(answer), tokenizer, settings) if question.id in closed else listed[question.id]
        bundles.append(_bundle(question.id, [(asked, answer)], "" if question.id in closed else "documents"))
    return bundles, {
        "rows": len(bundles),
        "closed_book": len(closed),
        "cut_answers": len(cut - closed),
        "dropped": len(dropped),
        "tokens": sum(len(bundle.tokens[0]) for bundle in bundles),
    }


def swapped(model: Model, questions: Sequence[OpenQuestion], settings: Settings) -> tuple[list[Bundle], Notes]:
    """For an attacker that cannot forge yet: the forging prompt, then a golden document with the answer swapped.

    The round (hence example and wrong answer) is drawn for each question. Where the answer does not stand in a golden
    document, a sentence in front states the wrong one. A question without golden documents gives no row.

    Raises:
        DataError: the prompt does not fit beside `atm.max_new_tokens`.
    """
    bundles, swaps = [], 0
    for question in questions:
        golden = [question.documents[at] for at in question.oracle_positions]
        if not golden:
            continue
        round = rng_for(settings.seed, "swapped", question.id).randrange(max(1, len(question.documents)))
        wrong = wrong_answer(question, round)
        swaps += any(template.falsified(question, document, wrong).at >= 0 for document in golden)
        asked = assignment(question, round, model.tokenizer, settings)
        text = continued(asked.lead, question, wrong)
        written = (*model.tokenizer.encode(text).ids, model.tokenizer.end)
        if len(written) > settings.atm.max_new_tokens:
            written = (*written[: settings.atm.max_new_tokens - 1], model.tokenizer.end)
        bundles.append(_bundle(question.id, [(asked.prompt, written)], wrong))
    return bundles, {
        "rows": len(bundles),
        "in_place": swaps,
        "without_golden": len(questions) - len(bundles),
        "tokens": sum(len(bundle.tokens[0]) for bundle in bundles),
    }


def _question(forgery: Forgery, by_id: dict[str, OpenQuestion]) -> OpenQuestion:
    if forgery.question_id not in by_id:
        raise DataError(f"forgery {forgery.id!r} is of question {forgery.question_id!r}, not of its microbatch")
    return by_id[forgery.question_id]


def _answer(question: OpenQuestion, tokenizer: Tokenizer) -> tuple[int, ...]:
    return (*tokenizer.encode(question.target).ids, tokenizer.end)


def _asked(
    question: OpenQuestion,
    documents: Sequence[Showable],
    room: int,
    tokenizer: Tokenizer,
    settings: Settings,
    golden: Sequence[int] = (),
) -> Prompt:
    limit, shows = settings.model.max_tokens, golden_of(question, golden)
    return prompt(
        question.text, documents, tokenizer, settings.prompts, id=question.id, max_tokens=limit, room=room, golden=shows
    )


def _perplexity(logprobs: Sequence[float]) -> float:
    try:
        return math.exp(-math.fsum(logprobs) / len(logprobs))
    except OverflowError:
        return math.inf


def _no_pair(group: Sequence[Grade]) -> str:
    """Why these grades give no pair; empty if they do."""
    values = [graded.perplexity for graded in group]
    if len(values) < 2:
        return "single"
    if not all(map(math.isfinite, values)):
        return "broken"
    return "equal" if math.isclose(min(values), max(values), rel_tol=ROUNDING) else ""


def _sampled_from(
    question: OpenQuestion, prompt_hash: str, round: int, tokenizer: Tokenizer, settings: Settings
) -> Assignment:
    for asked in assignments(question, round, tokenizer, settings):
        if asked.hash == prompt_hash:
            return asked
    raise DataError(
        f"the forgeries of question {question.id!r} were written for prompt {prompt_hash}, which round {round} does "
        "not make; the settings, the data or the tokenizer changed since: give the run another run.name"
    )


def _text(forgery: Forgery, asked: Assignment, tokenizer: Tokenizer) -> tuple[int, ...]:
    """What the attacker wrote of it: the tokens that it sampled; where its writer did not say, the text put into tokens
    again, without the lead that it was given, and the end if it came to one."""
    end = (tokenizer.end,) if forgery.ended else ()
    return forgery.tokens or (*tokenizer.encode(whole(forgery).removeprefix(asked.lead.said)).ids, *end)


def _bundle(id: str, rows: Sequence[tuple[Prompt, Sequence[int]]], about: str = "") -> Bundle:
    return Bundle(
        id=id,
        tokens=tuple((*asked.tokens, *answer) for asked, answer in rows),
        prompt_tokens=tuple(len(asked.tokens) for asked, _ in rows),
        about=about,
    )
