"""Benchmarks that judge alone: their documents contradict one another, so that one can be misled.

poisonedrag   questions of BEIR's nq, hotpotqa and msmarco, each with five texts that argue for a wrong answer
rgb           English and Chinese news: with noise, to put together, and with the fact changed
ramdocs       ambiguous names: documents on each that is meant, some with a wrong answer, some with none
conflictqa    PopQA with the evidence of both sides: what a model remembered, and what contradicts it
realtimeqa    quizzes on the news of a week, with their explanations and what a search found
"""

from __future__ import annotations

import html
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ragdist.data.matching import contains
from ragdist.data.sources import places
from ragdist.data.sources.files import READ_ERRORS, Broken, json_lines
from ragdist.data.sources.public_rows import PASSAGES, Benchmark, PublicRow, document, row_of, says
from ragdist.errors import ConfigError

LONGEST = 2000
"""Characters of an article that are kept: it is a document here, not a source to be cut into several."""
_NAME = re.compile(r'\s*\{\s*"_id":\s*"([^"]*)"')
_TAG = re.compile(r"<[^>]+>")
ALL = {"all_answers_required": True}


def _poisonedrag(row: dict[str, Any], file: str) -> PublicRow:
    wrong = row["incorrect answer"]
    documents = [document(one["title"], one["text"], "golden") for one in row["golden"]]
    documents += [document("", text, "forged", states=wrong) for text in row["adv_texts"]]
    dataset = f"poisonedrag_{file.removesuffix('.json')}"
    return row_of(dataset, row["id"], row["question"], [row["correct answer"]], documents, wrong_answers=(wrong,))


def _beir(path: Path) -> list[Path]:
    """The passages of BEIR that a file of targets is about, and which of them answer."""
    folder = path.parents[2] / "datasets" / path.stem
    found = [folder / "corpus.jsonl", *sorted((folder / "qrels").glob("*.tsv"))]
    if len(found) < 2 or not found[0].exists():
        raise ConfigError(
            f"{folder} holds no corpus.jsonl and qrels/*.tsv: the targets of PoisonedRAG bring no honest documents, "
            f"which are BEIR's; run `python prepare_dataset.py` in the copy, or take {path.name} out of it"
        )
    return found


def _targets(path: Path, broken: Broken) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each target with the passages that answer it."""
    corpus, *judged = _beir(path)
    try:
        targets: dict[str, Any] = json.loads(path.read_bytes())
        golden = defaultdict[str, list[str]](list)
        for file in judged:
            for line in file.read_text("utf-8").splitlines()[1:]:
                question, passage, score = line.split("\t")
                golden[question] += [passage] * (int(score) > 0 and question in targets)
        texts = _passages(corpus, {passage for ids in golden.values() for passage in ids})
    except (*READ_ERRORS, ValueError, AttributeError) as error:
        broken.add(str(path), f"cannot be read with {corpus.parent} ({error})")
        return
    for name, row in targets.items():
        yield f"{path}, {name}", {**row, "golden": [texts[one] for one in golden[name] if one in texts]}


def _passages(corpus: Path, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Those passages of millions."""
    found: dict[str, dict[str, Any]] = {}
    with corpus.open(encoding="utf-8") as lines:
        for line in lines:
            if (name := _NAME.match(line)) and name[1] in wanted:
                found[name[1]] = json.loads(line)
    return found


def _rgb(row: dict[str, Any], file: str) -> PublicRow:
    """An answer is a text, or a list of what must all be said, each perhaps a list of wordings. Where several must be,
    the first wording of each counts."""
    given = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    asked = [one if isinstance(one, list) else [one] for one in given]
    answers = [one[0] for one in asked] if len(asked) > 1 else asked[0]
    every = [text for one in row["positive"] for text in (one if isinstance(one, list) else [one])]
    fake = row.get("fakeanswer") or ""
    wrong = fake[0] if isinstance(fake, list) else fake
    documents = [document("", text, "golden") for text in _holding(every, answers, len(asked) > 1)]
    documents += [document("", text, "distractor") for text in row["negative"][: PASSAGES - 1]]
    documents += [document("", text, "forged", states=wrong) for text in row.get("positive_wrong", ())]
    more: dict[str, Any] = {"wrong_answers": (wrong,) if wrong else (), "meta": ALL if len(asked) > 1 else {}}
    return row_of(f"rgb_{file.removesuffix('.json')}", str(row["id"]), row["query"], answers, documents, **more)


def _holding(texts: Sequence[str], answers: Sequence[str], every: bool) -> list[str]:
    """The first texts that hold an answer, or all answers together; the first text where none does."""
    found, left = list[str](), list(answers)
    for text in texts:
        held = [answer for answer in left if contains(text, answer)]
        if held and (every or not found):
            found.append(text)
            left = [answer for answer in left if answer not in held]
    return found or list(texts[:1])


def _ramdocs(row: dict[str, Any], _: str) -> PublicRow:
    """Each of the names that are meant has an answer, and all are to be given."""
    kinds = {"correct": "golden", "misinfo": "forged", "noise": "distractor"}
    documents = []
    for one in row["documents"]:
        states = {"states": one["answer"]} if one["type"] == "misinfo" else {}
        documents.append(document("", one["text"], kinds[one["type"]], **states))
    answers, wrong = row["gold_answers"], tuple(row["wrong_answers"])
    more: dict[str, Any] = {"wrong_answers": wrong, "meta": ALL if len(answers) > 1 else {}}
    return row_of("ramdocs", "", row["question"], answers, documents, **more)


SIDES = (
    ("memory_answer", "parametric_memory_aligned_evidence", "parametric_memory"),
    ("counter_answer", "counter_memory_aligned_evidence", "counter_memory"),
)
"""Of ConflictQA: what it says, the evidence for it, and what a model wrote for it."""


def _conflictqa(row: dict[str, Any], _: str) -> PublicRow | None:
    """The side whose answer states the truth has the golden document; both documents of the other mislead. None where
    not exactly one side does, or where no document of the right one shows the answer."""
    answers = row["ground_truth"]
    right, wrong = ([side for side in SIDES if says(row[side[0]], answers) is so] for so in (True, False))
    if not (right and wrong):
        return None
    golden = [row[name] for name in right[0][1:] if says(row[name], answers)][:1]
    if not golden:
        return None
    documents = [document("", golden[0], "golden")] + [document("", row[name], "forged") for name in wrong[0][1:]]
    return row_of("conflictqa_popqa", "", row["question"], answers, documents)


def _realtimeqa(row: dict[str, Any], _: str) -> PublicRow | None:
    """The explanation is the golden document; a question without one is left out. Articles that hold the answer are
    neither golden nor distractors."""
    right = int(row["answer"][0])
    answer, evidence = row["choices"][right], html.unescape(_TAG.sub("", row["evidence"]))
    if not evidence.strip():
        return None
    found = [(one.get("title") or "", one["text"]) for one in row["found"]]
    others = [(title, text) for title, text in found if not contains(f"{title} {text}", answer)]
    documents = [document("", evidence, "golden")]
    documents += [document(title, text[:LONGEST], "distractor") for title, text in others[: PASSAGES - 1]]
    wrong = tuple(choice for at, choice in enumerate(row["choices"]) if at != right)
    return row_of("realtimeqa", row["question_id"], row["question_sentence"], [answer], documents, wrong_answers=wrong)


def _searched(path: Path) -> list[Path]:
    """What the search found for a quiz, where there was one."""
    found = path.with_name(path.name.replace("_qa.jsonl", "_gcs.jsonl"))
    return [found] if found.exists() else []


def _quiz(path: Path, broken: Broken) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each question with what the search found."""
    found = {
        row["question_id"]: row["search_result"]
        for file in _searched(path)
        for _, row in json_lines(places.at(str(file)), broken)
    }
    for where, row in json_lines(places.at(str(path)), broken):
        yield where, {**row, "found": found.get(row.get("question_id"), [])}


BENCHMARKS = {
    "poisonedrag": Benchmark(
        repository="https://github.com/sleeepeer/PoisonedRAG",
        files={"results/adv_targeted_results/*.json": "test"},
        read=_poisonedrag,
        licence="targets MIT; questions and passages are BEIR's: CC BY-SA (nq, hotpotqa), non-commercial research "
        "(msmarco)",
        citation="Zou et al., PoisonedRAG, USENIX Security 2025, arXiv 2402.07867; Thakur et al., BEIR, arXiv "
        "2104.08663",
        rows=_targets,
        beside=_beir,
        forged=True,
    ),
    "rgb": Benchmark(
        repository="https://github.com/chen700564/RGB",
        files={"data/*_refine.json": "test", "data/*_int.json": "test", "data/*_fact.json": "test"},
        read=_rgb,
        licence="CC BY-NC-SA 4.0",
        citation="Chen et al., Benchmarking Large Language Models in RAG, AAAI 2024, arXiv 2309.01431",
        forged=True,
    ),
    "ramdocs": Benchmark(
        repository="HanNight/RAMDocs",
        files={"RAMDocs_test.jsonl": "test"},
        read=_ramdocs,
        licence="MIT; the documents are AmbigDocs' from Wikipedia, CC BY-SA",
        citation="Wang et al., Retrieval-Augmented Generation with Conflicting Evidence, arXiv 2504.13079",
        forged=True,
    ),
    "conflictqa": Benchmark(
        repository="osunlp/ConflictQA",
        files={"conflictQA-popQA-chatgpt.json": "test"},
        read=_conflictqa,
        licence="Apache-2.0",
        citation="Xie et al., Adaptive Chameleon or Stubborn Sloth, ICLR 2024, arXiv 2305.13300",
        forged=True,
    ),
    "realtimeqa": Benchmark(
        repository="https://github.com/realtimeqa/realtimeqa_public",
        files={"past/*/*_qa.jsonl": "test"},
        read=_realtimeqa,
        licence="none is stated; questions and articles are those of CNN, USA Today, The Week and others",
        citation="Kasai et al., RealTime QA, NeurIPS 2023, arXiv 2207.13332",
        rows=_quiz,
        beside=_searched,
    ),
}
