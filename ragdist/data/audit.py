"""What the training rows really hold, against what the settings asked for."""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ragdist.config import ContextsConfig, ModelConfig, PromptsConfig, Settings
from ragdist.data import twins
from ragdist.data.distractors import Pool, telling
from ragdist.data.prompts import quotes, quotes_hold
from ragdist.data.questions import LABELS, text_key
from ragdist.records import Chunk, Context, Example, Question
from ragdist.storage.atomic import named_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

# Okabe and Ito's blue and orange: distinguished by every eye, and in grey.
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#999999"
NAMED = 20
"""Questions of a kind that are named."""
UNLIKELY = 0.001
"""Below this p the oracle's positions are not called uniform."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of training rows. Example: Lengths(mean=412.1, p50=409.0, p95=520.0, max=611, histogram=..., ...)."""

    mean: float
    p50: float
    p95: float
    max: int
    histogram: tuple[int, ...]
    """Rows in each of the intervals between `edges`."""
    edges: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The findings. Example: Audit(contexts=1000, oracle_fraction=0.6, oracle_contexts=600, ..., problems=())."""

    contexts: int
    documents: dict[int, int]
    """Contexts by number of documents."""
    oracle_fraction: float
    """As asked for: `contexts.oracle_fraction`."""
    oracle_contexts: int
    """Contexts that hold their oracles."""
    oracle_rows: int
    """Training rows whose context holds its oracles: the realised P% is their share of all rows."""
    partial_contexts: int
    """Contexts that hold some of their oracles but not all, or record a wrong position; always a fault."""
    positions: tuple[int, ...]
    """Oracles at each position, in contexts of the most frequent number of documents."""
    positions_p: float
    """Chance of positions at least as uneven if all are equally likely (chi-square)."""
    duplicate_contexts: int
    """Contexts that hold a chunk or a text twice."""
    answer_contexts: int
    """Contexts with a distractor that holds an answer, see `distractors.Pool.gives_away`."""
    absent_answers: int
    """Those of them without their oracle: they show a right answer all the same."""
    absent_answers_named: tuple[str, ...]
    """The first 20 of these, by question id."""
    train_questions: int
    test_questions: int
    shared_texts: int
    """Training questions whose words also ask a test question."""
    leaked_questions: int
    """Those of them that also share an oracle, or of which no oracle is known."""
    near_duplicates: int
    """Training questions that ask a test question again in other words, see `data.twins`."""
    near_duplicates_named: tuple[str, ...]
    """The first 20 of these, as `that, like this`."""
    quoting: int
    """Training questions whose reasoning has quote marks."""
    quotes_unbalanced: int
    quotes_not_verbatim: int
    """Balanced, but not word for word in an oracle."""
    dropped: dict[str, int]
    """Questions and rows that the stages left out, by why; empty where their counts were not given."""
    rows: int
    """Training rows, at most one for each context."""
    lengths: Lengths
    truncated_rows: int
    cut_tokens: int
    cut_answers: int
    """Rows whose oracles, cut to fit, no longer show the answer."""
    cut_answers_named: tuple[str, ...]
    """The first 20 of these, by question id."""
    without_oracle: tuple[str, ...]
    """The first questions of which no document was found; a training one is left out, a test one has no oracle."""
    impossible: tuple[str, ...]
    """Why nothing could be trained on or judged; empty when something could."""
    problems: tuple[str, ...]
    """What should not be so, in plain words; empty when all is well."""

    @property
    def oracle_share(self) -> float:
        """The realised P: the share of training rows whose context holds its oracles."""
        return self.oracle_rows / max(1, self.rows)

    def _repr_html_(self) -> str:
        """What a notebook shows: the terminal's table."""
        return str(table(self)._repr_mimebundle_(["text/html"], [])["text/html"])


def audit(
    questions: Iterable[Question],
    contexts: Iterable[Context],
    chunks: Mapping[str, Chunk],
    examples: Iterable[Example],
    settings: Settings,
    dropped: Mapping[str, int] | None = None,
    without_oracle: Sequence[str] = (),
    impossible: Sequence[str] = (),
) -> Audit:
    """The findings on these rows, each read once; questions and chunks are held in memory, contexts and rows are not.
    The last three arguments are `Pipeline`'s `dropped`, `without_oracle` and `shortages`."""
    by_id, with_oracle = {question.id: question for question in questions}, set[str]()
    found = _contexts(contexts, by_id, chunks, with_oracle) | _questions(by_id.values())
    found |= _quotes(by_id.values(), chunks) | _rows(examples, with_oracle)
    found["dropped"] = {why: count for why, count in (dropped or {}).items() if count}
    found["oracle_fraction"] = settings.contexts.oracle_fraction
    found["without_oracle"] = tuple(without_oracle)
    found["impossible"] = tuple(impossible)
    bare = Audit(**found, problems=())
    problems = (*_problems(bare, settings.contexts), *_row_problems(bare, settings.prompts, settings.model))
    return Audit(**found, problems=(*impossible, *problems))


def _contexts(
    contexts: Iterable[Context], questions: Mapping[str, Question], chunks: Mapping[str, Chunk], with_oracle: set[str]
) -> dict[str, Any]:
    """The findings on the contexts; `with_oracle` gets the questions whose context holds oracles."""
    pool, absent = Pool(chunks), list[str]()
    sizes, counts = Counter[int](), Counter[str]()
    positions: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for context in contexts:
        question, size = questions[context.question_id], len(context.chunk_ids)
        sizes[size] += 1
        positions[size].update(context.oracle_positions)
        oracles = {at for at, chunk_id in enumerate(context.chunk_ids) if chunk_id in question.oracle_ids}
        if oracles:
            with_oracle.add(question.id)
        counts["partial"] += oracles != set(context.oracle_positions) or (
            bool(oracles) and len(oracles) < len(question.oracle_ids)
        )
        counts["duplicate"] += len({pool.text_numbers[pool[i]] for i in context.chunk_ids}) < size
        answers = telling(question)
        others = [pool[i] for at, i in enumerate(context.chunk_ids) if at not in oracles]
        shows = any(pool.gives_away(place, answers) for place in others)
        counts["answer"] += shows
        if shows and not oracles:
            absent.append(question.id)
    size = max(sizes, key=lambda size: sizes[size], default=0)
    histogram = tuple(positions[size][at] for at in range(size))
    return {
        "contexts": sizes.total(),
        "documents": dict(sorted(sizes.items())),
        "oracle_contexts": len(with_oracle),
        "partial_contexts": counts["partial"],
        "positions": histogram,
        "positions_p": uniform_p(histogram),
        "duplicate_contexts": counts["duplicate"],
        "answer_contexts": counts["answer"],
        "absent_answers": len(absent),
        "absent_answers_named": tuple(absent[:NAMED]),
    }


def _questions(questions: Collection[Question]) -> dict[str, Any]:
    train: list[Question] = []
    test: defaultdict[str, list[Question]] = defaultdict(list)
    for question in questions:
        if question.split == "train":
            train.append(question)
        else:
            test[text_key(question)].append(question)
    shared = [(question, twin) for question in train for twin in test.get(text_key(question), ())]
    leaked = {one.id for one, two in shared if set(one.oracle_ids) & set(two.oracle_ids) or not one.oracle_ids}
    same = {question.id for question, _ in shared}
    near = [(one.id, two.id) for one, two in twins.pairs(questions, LABELS) if one.id not in same]
    return {
        "train_questions": len(train),
        "test_questions": sum(map(len, test.values())),
        "shared_texts": len(same),
        "leaked_questions": len(leaked),
        "near_duplicates": len(near),
        "near_duplicates_named": tuple(f"{one}, like {two}" for one, two in near[:NAMED]),
    }


def _quotes(questions: Iterable[Question], chunks: Mapping[str, Chunk]) -> dict[str, int]:
    quoting = unbalanced = invented = 0
    for question in questions:
        found = quotes(question.reasoning)
        if question.split == "train" and (found.spans or not found.balanced):
            quoting += 1
            unbalanced += not found.balanced
            sources = [chunks[chunk_id].text for chunk_id in question.oracle_ids]
            invented += found.balanced and not quotes_hold(question.reasoning, sources)
    return {"quoting": quoting, "quotes_unbalanced": unbalanced, "quotes_not_verbatim": invented}


def _rows(examples: Iterable[Example], with_oracle: AbstractSet[str]) -> dict[str, Any]:
    lengths, truncated, cut, oracles = array("l"), 0, 0, 0
    lost: list[str] = []
    for row in examples:
        lengths.append(len(row.tokens))
        oracles += row.id in with_oracle
        truncated += row.cut_tokens > 0
        cut += row.cut_tokens
        if row.cut_answer:
            lost.append(row.id)
    tokens = np.array(lengths if lengths else [0])
    histogram, edges = np.histogram(tokens, bins=min(40, int(np.ptp(tokens)) + 1))
    return {
        "rows": len(lengths),
        "oracle_rows": oracles,
        "lengths": Lengths(
            mean=float(tokens.mean()),
            p50=float(np.percentile(tokens, 50)),
            p95=float(np.percentile(tokens, 95)),
            max=int(tokens.max()),
            histogram=tuple(histogram.tolist()),
            edges=tuple(edges.tolist()),
        ),
        "truncated_rows": truncated,
        "cut_tokens": cut,
        "cut_answers": len(lost),
        "cut_answers_named": tuple(lost[:NAMED]),
    }


def uniform_p(counts: Sequence[int]) -> float:
    """Chi-square test of equal expected counts: the chance of a table at least as uneven; 1 with nothing to test."""
    total, freedom = sum(counts), len(counts) - 1
    if not total or freedom < 1:
        return 1.0
    expected = total / len(counts)
    half = sum((count - expected) ** 2 for count in counts) / expected / 2
    # The upper incomplete gamma function Q(freedom / 2, half), by its recursion from 1/2 or 1 upwards.
    order, q = (0.5, math.erfc(math.sqrt(half))) if freedom % 2 else (1.0, math.exp(-half))
    while order < freedom / 2:
        q += math.exp(order * math.log(half) - half - math.lgamma(order + 1)) if half else 0.0
        order += 1
    return min(1.0, q)


def _problems(found: Audit, config: ContextsConfig) -> Iterable[str]:
    asked, shown = config.oracle_fraction, found.oracle_rows
    if abs(shown - asked * found.rows) > _tolerance(config, found.rows):
        yield (
            f"{shown} of {found.rows} rows hold their oracle, contexts.oracle_fraction={asked} asks for "
            f"{asked * found.rows:.0f}"
        )
    if found.partial_contexts:
        yield f"{found.partial_contexts} contexts hold only some of their oracles or name a wrong position"
    if found.positions_p < UNLIKELY:
        yield f"the oracle's positions are not uniform (p={found.positions_p:.2g}): {list(found.positions)}"
    if found.duplicate_contexts:
        yield f"{found.duplicate_contexts} contexts show a chunk or a text twice"
    if set(found.documents) - {config.documents}:
        other = found.contexts - found.documents.get(config.documents, 0)
        yield f"{other} contexts have another number of documents than contexts.documents={config.documents}"
    if found.answer_contexts:
        yield f"{found.answer_contexts} contexts have a distractor that holds an answer (false negatives)"
    if found.absent_answers:
        yield (
            f"{found.absent_answers} contexts without their oracle show a right answer all the same: "
            f"{_named(found.absent_answers_named, found.absent_answers)}"
        )


def _row_problems(found: Audit, prompts: PromptsConfig, model: ModelConfig) -> Iterable[str]:
    """What should not be so beside the contexts: leaks between the splits, quotes, cut rows."""
    if found.without_oracle:
        yield f"no document was found that answers these: {'; '.join(found.without_oracle)}"
    if found.leaked_questions:
        yield f"{found.leaked_questions} training questions are also test questions"
    if found.near_duplicates:
        yield (
            f"{found.near_duplicates} training questions ask a test question again in other words "
            "(questions.near_duplicates=drop leaves them out): "
            f"{_named(found.near_duplicates_named, found.near_duplicates, '; ')}"
        )
    if prompts.answer == "reasoned" and (bad := found.quotes_unbalanced + found.quotes_not_verbatim):
        yield f"{bad} of {found.quoting} quoting answers have a quote that is not in the oracle, or unbalanced marks"
    if found.truncated_rows:
        yield (
            f"{found.truncated_rows} rows lost {found.cut_tokens} document tokens to "
            f"model.max_tokens={model.max_tokens}"
        )
    if found.cut_answers:
        yield (
            f"{found.cut_answers} rows ({found.cut_answers / found.rows:.1%}) lost the answer with it (raise "
            "model.max_tokens, or prompts.cut_answers=drop leaves them out): "
            f"{_named(found.cut_answers_named, found.cut_answers)}"
        )


def _named(names: Sequence[str], count: int, between: str = ", ") -> str:
    """The names, and how many more there are."""
    return between.join(names) + (f"{between}and {count - len(names)} more" if count > len(names) else "")


def _tolerance(config: ContextsConfig, rows: int) -> float:
    """Rows that the realised P may be off: half a row, or four standard deviations of coin flips."""
    if config.draw == "exact":
        return 0.5
    return 4 * math.sqrt(rows * config.oracle_fraction * (1 - config.oracle_fraction))


def as_json(found: Audit) -> dict[str, Any]:
    """The findings as plain values, with the realised share of rows that hold their oracle."""
    return asdict(found) | {"oracle_share": found.oracle_share}


def table(found: Audit) -> Table:
    """The findings for a terminal; the last rows are the problems."""
    from rich.table import Table

    lengths, rows = found.lengths, max(1, found.contexts)
    out = Table(title="audit of the training rows", show_header=False, title_justify="left")
    out.add_column(style="bold", no_wrap=True)
    out.add_column()
    out.add_row("questions", f"{found.train_questions} training, {found.test_questions} test")
    out.add_row("shared by both", f"{found.leaked_questions} questions, {found.shared_texts} wordings")
    out.add_row("nearly shared", f"{found.near_duplicates} training questions ask a test question in other words")
    out.add_row("contexts", f"{found.contexts}, {_listed(found.documents)}")
    share = f"{found.oracle_share:.1%}; asked for {found.oracle_fraction:.1%}"
    out.add_row("hold their oracle", f"{found.oracle_rows}, {share}, of the {found.rows} rows that are trained")
    out.add_row("oracle at position", f"{' '.join(map(str, found.positions))}  (uniform: p={found.positions_p:.2g})")
    out.add_row("a text twice", f"{found.duplicate_contexts} contexts")
    answers = f"{found.answer_contexts} contexts, {found.answer_contexts / rows:.1%}"
    out.add_row("answer in a distractor", f"{answers}; {found.absent_answers} of them without their oracle")
    bad = f"{found.quotes_not_verbatim} not word for word, {found.quotes_unbalanced} with unbalanced marks"
    out.add_row("quotes", f"{found.quoting} answers quote; {bad}")
    tokens = f"mean {lengths.mean:.0f}, median {lengths.p50:.0f}, 95% below {lengths.p95:.0f}, longest {lengths.max}"
    left_out = [f"{count} {why.removesuffix('_dropped').replace('_', ' ')}" for why, count in found.dropped.items()]
    out.add_row("left out", ", ".join(left_out) or "none")
    out.add_row("rows", f"{found.rows}; tokens: {tokens}")
    cut = f"{found.truncated_rows} rows, {found.cut_tokens} document tokens"
    lost = f"{found.cut_answers} rows, {found.cut_answers / max(1, found.rows):.1%}, lost their answer"
    out.add_row("truncated", f"{cut}; {lost}")
    for problem in found.problems or ("none",):
        out.add_row("problem" if found.problems else "problems", problem)
    return out


def _listed(documents: Mapping[int, int]) -> str:
    if len(documents) == 1:
        return f"{next(iter(documents))} documents each"
    return ", ".join(f"{times} of {size} documents" for size, times in documents.items())


def picture(found: Audit, path: Path) -> Path:
    """A PNG of the realised P, the oracle's positions and the rows' lengths, written to `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    share, positions, lengths = figure.subplots(1, 3, width_ratios=(1, 1.4, 1.6))
    _draw_share(share, found)
    _draw_positions(positions, found)
    _draw_lengths(lengths, found)
    for axes in (share, positions, lengths):
        axes.spines[["top", "right"]].set_visible(False)
    with named_file(path, "give --picture another place") as half:
        figure.savefig(half, format="png")
    return path


def _draw_share(axes: Axes, found: Audit) -> None:
    bars = axes.bar(
        ["oracle shown", "oracle left out"],
        [found.oracle_rows, found.rows - found.oracle_rows],
        color=[BLUE, ORANGE],
        width=0.6,
    )
    axes.bar_label(bars, padding=2)
    axes.axhline(found.oracle_fraction * found.rows, color=GREY, linestyle="--", linewidth=1)
    axes.set_ylabel("rows")
    axes.margins(y=0.12)
    _say(axes, f"oracle in {found.oracle_share:.1%}\n{found.oracle_fraction:.1%} asked for (dashed)")


def _draw_positions(axes: Axes, found: Audit) -> None:
    places = range(1, len(found.positions) + 1)
    axes.bar(places, found.positions, color=BLUE, width=0.7)
    if found.positions:
        axes.axhline(sum(found.positions) / len(found.positions), color=GREY, linestyle="--", linewidth=1)
    axes.set_xticks(list(places))
    axes.set_xlabel("position of the oracle")
    axes.set_ylabel("contexts")
    _say(axes, f"where the oracle stands\nuniform (dashed) with p={found.positions_p:.2g}")


def _draw_lengths(axes: Axes, found: Audit) -> None:
    lengths = found.lengths
    axes.stairs(lengths.histogram, lengths.edges, fill=True, color=BLUE)
    for tokens in (lengths.p50, lengths.p95):
        axes.axvline(tokens, color=ORANGE, linewidth=1.5)
    axes.set_xlabel("tokens of a row")
    axes.set_ylabel("rows")
    quantiles = f"median {lengths.p50:.0f}, 95% below {lengths.p95:.0f} (lines), longest {lengths.max}"
    _say(axes, f"{found.rows} rows, {found.truncated_rows} truncated\n{quantiles}")


def _say(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=9.5, linespacing=1.4)
