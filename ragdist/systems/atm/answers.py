"""What a game's generators answered to the test questions, beside what they were shown, from the files that it left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ragdist.config import AtmConfig, Settings
from ragdist.evaluation import kept_answers
from ragdist.evaluation.cases import by_question
from ragdist.evaluation.kept_answers import KeptAnswer, argued, shown
from ragdist.records import Forgery, OpenQuestion, Prediction
from ragdist.systems.atm.asking import list_of, template_forgeries
from ragdist.systems.atm.summary import ASKED, Matchup, read_rows


def of_game(folder: Path, questions: Iterable[OpenQuestion], template: Path, settings: Settings) -> list[KeptAnswer]:
    """All answers, older generators first.

    Args:
        folder: of the tests, with `clean-g0/`, `template-g0/`, `attacked-a1-g0/`, `forged-a1/`.
        questions: those that were asked.
        template: JSONL of the template attack's forgeries.
        settings: the game's.
    """
    asked = {question.id: question for question in questions}
    written: dict[int, list[Forgery]] = {}
    for (attacker,), forgery in read_rows(folder, "forged"):
        written.setdefault(attacker, []).append(forgery)
    forged: dict[int, Mapping[str, Sequence[Forgery]]] = {
        attacker: by_question(sorted(rows, key=lambda forgery: forgery.number)) for attacker, rows in written.items()
    }
    forged[-1] = template_forgeries(str(template), settings.evaluation.forgeries)
    answered: list[Prediction] = [row for kind in ASKED for _, row in read_rows(folder, kind)]
    config, seed = settings.atm, settings.seed
    return [
        _row(row, asked[row.question_id], forged.get(row.attacker, {}).get(row.question_id, ()), config, seed)
        for row in sorted(answered, key=lambda row: row.generator)
    ]


def _row(
    row: Prediction, question: OpenQuestion, forgeries: Sequence[Forgery], config: AtmConfig, seed: int
) -> KeptAnswer:
    listed = list_of(question, row.condition, forgeries, seed)
    golden = [question.document_ids[at] for at in question.oracle_positions]
    documents = shown(listed, golden, "retrieved" if config.lists == "retrieved" else "distractor")
    forged = argued(forgery.states for forgery in forgeries)
    return replace(
        kept_answers.of(row, question, documents, forged, seed),
        condition=row.condition if row.attacker < 0 else f"attacker {row.attacker}",
        model=Matchup(row.generator, -1).stage,
        states_forgery=row.states_forgery if forgeries else None,
    )
