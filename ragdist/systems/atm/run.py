"""ATM (arXiv 2405.18111): an attacker forges documents, a generator learns not to be moved by them, in rounds.

    round e, for each question q with its list D and right answer a:
        forge           F  = A_e(q, one document as example) x samples `forging.forge`
        grade           PPL_G_e(a | q, d') = exp(- mean_t log p(a_t | ...)) `training_rows.grade`, each d' alone
        attacker learns A_{e+1}: DPO; win = highest PPL, lose = lowest         `algo.preference.dpo`
                        -log sigmoid(beta * [log A(win)/A_e(win) - log A(lose)/A_e(lose)])
        forge again     F' = A_{e+1}(q, ...)
        permute         D' = permutation of D + F'   (`atm.mix`, `atm.replay`) `training_rows.attacked_lists`
        generator learns G_{e+1}: MITO                                         `algo.consistency.mito`
                        - log p(a | q, D') + kl_weight * KL[p(. | q, D) || p(. | q, D')], per answer token
                        (+ clean_weight * - log p(a | q, D), + preferences: beyond the paper, off unless asked for)

The seed post that introduced ATM here has win and lose the wrong way round; the official code and the game's logic
agree on the above. Then the question that ATM is about: held-out questions under the clean list, the template attack
and the attacker's own forgeries, before and after each round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ragdist.algo import consistency, preference, sft
from ragdist.config import AtmConfig, Settings
from ragdist.errors import TrainError
from ragdist.evaluation.kept_answers import KeptAnswer
from ragdist.records import OpenQuestion
from ragdist.roles import MicrobatchRef, Side
from ragdist.storage.phases import PhaseCheckpoint
from ragdist.systems.atm import answers, asking, forging, training_rows
from ragdist.systems.atm import summary as rounds
from ragdist.systems.atm.live import Board
from ragdist.systems.atm.report import Rounds
from ragdist.tracking.run import span


class Start(NamedTuple):
    """A model that a side begins with."""

    source: str
    version: int


ATTACKER, GENERATOR = "round-0/attacker", "round-0/generator"
MITO_ALONE = (
    "atm.kl_",
    "atm.detach_clean",
    "atm.reduction",
    "atm.clean_weight",
    "atm.preference_",
    "atm.mix.",
    "atm.replay.",
)
"""How settings begin that nothing reads before the generator's rows are made."""
WRITES = {forging.forge, asking.ask_clean, asking.ask_template, asking.ask_attacked}
"""Work in which a model writes and does not read."""
OpenSides = Callable[[Start, Start], AbstractContextManager[tuple[Side, Side]]]
"""Seats attacker and generator for as long as the block lasts."""


@dataclass(frozen=True, slots=True)
class AtmOutcome:
    """What an ATM run made."""

    generator: Path
    attacker: Path
    """Folders of the last models."""
    report: Rounds
    answers: list[KeptAnswer]
    """All that generators gave to the test questions."""


def run(
    train: Sequence[MicrobatchRef],
    test: Sequence[MicrobatchRef],
    questions: Iterable[OpenQuestion],
    template: Path,
    open_sides: OpenSides,
    folder: Path,
    settings: Settings,
    board: Board,
    until: str = "",
) -> AtmOutcome:
    """Plays `atm.rounds` rounds; what an earlier call finished in `folder` is resumed.

    Args:
        train: microbatches of OpenQuestion that both learn on.
        test: those that they are judged by.
        questions: the same, for the examples in the report.
        template: JSONL of the template attack's forgeries for the test questions.
        open_sides: called once, with what each side begins with.
        folder: the run's folder, seen by all ranks.
        settings: all settings.
        board: shows how it goes.
        until: a phase of the first round that is not played any more, see `common`; empty plays to the end.

    Raises:
        RagdistError: bad input, a stop request, or a side that failed too often; what is finished stays.
    """
    journal = PhaseCheckpoint(folder / "atm")
    learned = {side: _learned(side, journal, settings.atm) for side in ("attacker", "generator")}
    starts = {side: _start(side, phases, journal, settings) for side, phases in learned.items()}
    with open_sides(starts["attacker"], starts["generator"]) as (attacker, generator):
        game = Game(attacker, generator, list(train), list(test), str(template), journal, settings, board)
        game.prepare()
        if until:
            game.play(0, until)
        else:
            for number in range(settings.atm.rounds):
                game.play(number)
    models = {side: Path(_start(side, phases, journal, settings).source) for side, phases in learned.items()}
    judged = journal.folder / "test"
    report = rounds.summarise(judged, settings.evaluation, settings.seed, questions)
    return AtmOutcome(
        models["generator"], models["attacker"], report, answers.of_game(judged, questions, template, settings)
    )


def common(keys: Iterable[str], config: AtmConfig) -> str:
    """The phase of the first round up to which games that differ in these settings alone are one game; empty: none.

    So a sweep over `atm.kl_weight` forges, grades and lets the attacker learn once for all its weights.
    """
    first: list[str] = []
    for key in keys:
        if key.startswith(MITO_ALONE) or (key.startswith("generator.train.") and not config.first_tuning):
            first.append(GENERATOR)
        elif key == "atm.dpo_beta" or (key.startswith("attacker.train.") and config.attacker_warmup == "none"):
            first.append(ATTACKER)
        elif key != "atm.rounds":
            return ""
    return ATTACKER if ATTACKER in first else GENERATOR


def _learned(side: str, journal: PhaseCheckpoint, config: AtmConfig) -> list[str]:
    """The phases in which this side learns, in order."""
    first = {"generator": config.first_tuning, "attacker": config.attacker_warmup != "none"}[side]
    return ["first/" + side] * first + [f"round-{number}/{side}" for number in range(config.rounds)]


def _start(side: str, phases: Sequence[str], journal: PhaseCheckpoint, settings: Settings) -> Start:
    """The side's newest model. Version 0 enters round 0, so a side that is tuned first begins at -1."""
    config = settings.attacker if side == "attacker" else settings.generator
    begin = -1 if phases[0].startswith("first/") else 0
    done = [phase for phase in phases if journal.done(phase)]
    return Start(journal.model(done[-1]) if done else config.source or settings.model.source, begin + len(done))


@dataclass(frozen=True, slots=True)
class Game:
    """Both sides, the questions, and the journal of what is finished."""

    attacker: Side
    generator: Side
    train: list[MicrobatchRef]
    test: list[MicrobatchRef]
    template: str
    journal: PhaseCheckpoint
    settings: Settings
    board: Board

    def prepare(self) -> None:
        """Before the first round: the generator's first tuning and the attacker's warm-up, where asked for."""
        if self.settings.atm.first_tuning:
            rows = self._each(self.generator, training_rows.first_tuning, "first/rows", self.train, self.settings)
            self._learn(self.generator, sft.answer_loss, rows, "first/generator")
        if self.settings.atm.attacker_warmup == "swap":
            rows = self._each(self.attacker, training_rows.swapped, "first/swapped", self.train, self.settings)
            self._learn(self.attacker, sft.answer_loss, rows, "first/attacker")
        self.forge_held_out(0)
        self.judge(0)

    def play(self, number: int, until: str = "") -> None:
        """Round `number`: A and G of that version enter, both leave one version newer, or it ends before `until`."""
        atm, here = self.settings.atm, f"round-{number}"
        forged, graded = self.forge_and_grade(number)
        pairs = self._each(
            self.attacker,
            training_rows.preferences,
            f"{here}/pairs",
            _zip(self.train, forged, graded),
            number,
            self.settings,
        )
        if until == f"{here}/attacker":
            return
        dpo = partial(preference.dpo, beta=atm.dpo_beta)
        self._learn(self.attacker, dpo, pairs, f"{here}/attacker", prepare=preference.reference)
        self.forge_held_out(number + 1)
        self.attack(number + 1, number)  # what the attacker gained, before the generator defends itself
        again = self._each(self.attacker, forging.forge, f"{here}/forged-again", self.train, number, self.settings)
        if until == f"{here}/generator":
            return
        shown = _zip(self.train, again, *self._replayed(number))
        rows = self._each(self.generator, training_rows.attacked_lists, f"{here}/lists", shown, number, self.settings)
        prepare = consistency.reference if atm.preference_weight else None
        self._learn(self.generator, mito(self.settings.atm), rows, f"{here}/generator", prepare=prepare)
        self.judge(number + 1)

    def forge_and_grade(self, number: int) -> tuple[list[MicrobatchRef], list[MicrobatchRef]]:
        """One stream: while the generator grades a microbatch, the attacker writes the next."""
        forging_phase, grading_phase = f"round-{number}/forged", f"round-{number}/graded"
        part = {shard.name: shard for shard in self.train}
        forged: list[MicrobatchRef] = []

        def written() -> Iterator[tuple[MicrobatchRef, MicrobatchRef]]:
            for shard in self.attacker.each(
                forging.forge,
                ((shard,) for shard in self.train),
                number,
                self.settings,
                folder=self.journal.folder / forging_phase,
                phase=forging_phase,
                writes=True,
            ):
                self.board.advance(0, **shard.notes)
                forged.append(shard)
                yield part[shard.name], shard

        if not self.journal.done(grading_phase):
            self.board.phase(f"round {number + 1}, forge and grade", len(self.train))
            with span(f"{forging_phase} and graded"):
                stream = self.generator.each(
                    training_rows.grade,
                    written(),
                    self.settings,
                    folder=self.journal.folder / grading_phase,
                    phase=grading_phase,
                )
                graded = list(self._watched(stream))
            self.journal.shards(forging_phase, lambda _: forged)
            self.journal.shards(grading_phase, lambda _: graded)
        return self.journal.shards(forging_phase, _never), self.journal.shards(grading_phase, _never)

    def _replayed(self, number: int) -> list[list[MicrobatchRef]]:
        """What attackers wrote in this round and those before it, each before it learned."""
        if "earlier" not in self.settings.atm.replay.attacks:
            return []
        return [self.journal.shards(f"round-{earlier}/forged", _never) for earlier in range(number + 1)]

    def forge_held_out(self, attacker: int) -> None:
        """Forgeries for the test questions by this version, for all versions from the same prompts."""
        # As many for a question as the attacked list shows.
        settings = self.settings.unchecked("atm.samples", self.settings.evaluation.forgeries)
        self._each(self.attacker, forging.forge, f"test/forged-a{attacker}", self.test, 0, settings)

    def judge(self, version: int) -> None:
        """The test questions put to this generator: clean list, template attack, the attacker of the same version."""
        clean = self._each(
            self.generator, asking.ask_clean, f"test/clean-g{version}", self.test, self.template, self.settings
        )
        template = self._each(
            self.generator,
            asking.ask_template,
            f"test/template-g{version}",
            _zip(self.test, clean),
            self.template,
            self.settings,
        )
        attacked = self.attack(version, version)
        shares = {"clean": clean, "template": template, "attacked": attacked}
        self.board.result(
            version, **{f"right_{name}": _share(found, "right", "asked") for name, found in shares.items()}
        )

    def attack(self, attacker: int, generator: int) -> list[MicrobatchRef]:
        """How much this attacker's forgeries hurt this generator: perplexity of each alone, answers under all."""
        forged = self.journal.shards(f"test/forged-a{attacker}", _never)
        clean = self.journal.shards(f"test/clean-g{generator}", _never)
        pair = f"a{attacker}-g{generator}"
        self._each(self.generator, training_rows.grade, f"test/graded-{pair}", _zip(self.test, forged), self.settings)
        return self._each(
            self.generator,
            asking.ask_attacked,
            f"test/attacked-{pair}",
            _zip(self.test, forged, clean),
            attacker,
            self.settings,
        )

    def _each(
        self, side: Side, work: Callable[..., Any], phase: str, inputs: Sequence[Any], *shared: Any
    ) -> list[MicrobatchRef]:
        if self.journal.done(phase):
            return self.journal.shards(phase, _never)
        self.board.phase(phase, len(inputs))
        tuples = (one if isinstance(one, tuple) else (one,) for one in inputs)
        with span(phase):
            each = partial(side.each, work, tuples, *shared, phase=phase, writes=work in WRITES)
            return self.journal.shards(phase, lambda folder: self._watched(each(folder=folder)))

    def _watched(self, shards: Iterable[MicrobatchRef]) -> Iterator[MicrobatchRef]:
        for shard in shards:
            self.board.advance(1, **shard.notes)
            yield shard

    def _learn(
        self,
        side: Side,
        loss: Callable[..., Any],
        shards: Sequence[MicrobatchRef],
        phase: str,
        prepare: Callable[..., Any] | None = None,
    ) -> None:
        if self.journal.done(phase):
            return
        if not sum(shard.rows for shard in shards):
            raise TrainError(
                f"{phase} has no row to learn from, of {len(shards)} microbatches: {_sums(shards)}; raise atm.samples, "
                "atm.temperature or atm.max_new_tokens, or warm the attacker up (atm.attacker_warmup=swap)"
            )
        self.board.phase(phase)
        with span(phase):
            self.journal.learned(
                phase, lambda folder: side.learn(loss, shards, prepare=prepare, folder=folder, phase=phase)
            )


def mito(config: AtmConfig) -> Callable[..., Any]:
    """The generator's loss as the settings want it."""
    released = config.variant == "released_code"
    return partial(
        consistency.mito,
        kl_weight=config.kl_weight,
        clean_weight=config.clean_weight,
        preference_weight=config.preference_weight,
        beta=config.dpo_beta,
        direction="attacked_to_clean" if released else config.kl_direction,
        detach_clean=config.detach_clean,
        reduction=config.reduction,
        sft_on="clean" if released else "attacked",
    )


def _zip(*stages: Sequence[MicrobatchRef]) -> list[tuple[MicrobatchRef, ...]]:
    """Shards of one name together; stages are in the order of names."""
    return list(zip(*stages, strict=True))


def _share(shards: Sequence[MicrobatchRef], top: str, bottom: str) -> float:
    sums = [sum(shard.notes[name] for shard in shards) for name in (top, bottom)]
    return sums[0] / max(1.0, sums[1])


def _sums(shards: Sequence[MicrobatchRef]) -> str:
    sums = Counter[str]()
    for shard in shards:
        sums.update(shard.notes)
    return ", ".join(f"{name} {value:g}" for name, value in sums.items())


def _never(_: Path) -> Iterable[MicrobatchRef]:
    raise AssertionError("a finished phase is not made again")
