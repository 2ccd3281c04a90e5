"""What a game's generators answered to the test questions, beside what they were shown, from the files that it left."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ragdist.config import Settings
from ragdist.evaluation.kept_answers import KeptAnswer, abstains, argued, shown
from ragdist.records import Forgery, OpenQuestion, Prediction
from ragdist.storage.tables import rows_at
from ragdist.systems.atm.asking import list_of, template_forgeries
from ragdist.systems.atm.summary import Matchup

_ASKED = re.compile(r"(?:clean|template|attacked)-(?:a\d+-)?g(\d+)")
ForgeriesByAttacker = Mapping[int, Mapping[str, Sequence[Forgery]]]
"""Then by question; attacker -1 is the template."""


def of_game(folder: Path, questions: Iterable[OpenQuestion], template: Path, settings: Settings) -> list[KeptAnswer]:
    """All answers, older generators first.

    Args:
        folder: of the tests, with `clean-g0/`, `template-g0/`, `attacked-a1-g0/`, `forged-a1/`.
        questions: those that were asked.
        template: JSONL of the template attack's forgeries.
        settings: the game's.
    """
    asked = {question.id: question for question in questions}
    forged = {int(path.name[8:]): _by_question(path) for path in folder.glob("forged-a*") if path.is_dir()}
    forged[-1] = template_forgeries(str(template), settings)
    return [_row(row, asked[row.question_id], forged, settings) for row in _answered(folder)]


def _answered(folder: Path) -> Iterator[Prediction]:
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _ASKED.fullmatch(path.name))]
    for _, path in sorted(found):
        for file in sorted(path.glob("*.parquet")):
            yield from rows_at(file)


def _by_question(folder: Path) -> dict[str, list[Forgery]]:
    found: dict[str, list[Forgery]] = {}
    for file in sorted(folder.glob("*.parquet")):
        for forgery in rows_at(file):
            found.setdefault(forgery.question_id, []).append(forgery)
    return {key: sorted(rows, key=lambda forgery: forgery.number) for key, rows in found.items()}


def _row(row: Prediction, question: OpenQuestion, forged: ForgeriesByAttacker, settings: Settings) -> KeptAnswer:
    forgeries = forged[row.attacker].get(question.id, ())
    documents = list_of(question, row.condition, forgeries, settings.seed)
    golden = [question.document_ids[at] for at in question.oracle_positions]
    return KeptAnswer(
        question_id=row.question_id,
        question=question.text,
        answers=question.answers,
        condition=row.condition if row.attacker < 0 else f"attacker {row.attacker}",
        documents=shown(documents, golden, "retrieved" if settings.atm.lists == "retrieved" else "distractor"),
        forged_answer=argued(forgeries),
        model=Matchup(row.generator, -1).stage,
        text=row.text,
        answer=row.answer,
        subspan_em=row.subspan,
        exact_match=row.em,
        f1=row.f1,
        states_forgery=row.states_forgery if forgeries else None,
        abstained=abstains(row.answer, row.subspan),
        ended=row.ended,
        cut_tokens=row.cut_tokens,
        seed=settings.seed,
    )
