"""The public benchmarks: where on the hub each one lies, on what terms, and how one of its rows reads as ours.

Each is taken from a repository that carries the passages too, as RAFT cannot train without:

    hotpotqa                  two paragraphs to reason over and eight that were retrieved, as the data set has them
    pubmedqa                  the abstract without its conclusion; answers yes, no or maybe; expert-labelled part
    nq triviaqa webquestions  DPR's passages: the first that holds the answer, and BM25's best that do not
    popqa                     the long tail with the passages that Contriever found, as Self-RAG published it
    apibench                  documentation of an API as JSON; the answer is the call
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ragdist.data.matching import contains
from ragdist.errors import DataError
from ragdist.records import content_id

PASSAGES = 10
"""At most so many of a question's passages are kept where the data set has a hundred."""
_QUOTED_INSTRUCTION = re.compile(r"'Instruction': (.*?), 'Output': (.*)", re.DOTALL)
_INSTRUCTION = re.compile(r"###\s*Instruction:(.*?)###\s*Output:(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicRow:
    """A row in the form of question files.

    Example: PublicRow(id="popqa-7", dataset="popqa", split="", question="...", answers=("...",), documents=({...},))
    """

    id: str
    dataset: str
    split: str
    """train or test; empty where the data set names none, and a draw decides."""
    question: str
    answers: tuple[str, ...]
    documents: tuple[dict[str, str], ...]
    """Each {title, text, kind}."""
    long_answer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Where a benchmark comes from, and what its rows mean."""

    repository: str
    """Data set on the hub."""
    files: Mapping[str, str]
    """Split by the pattern of its files in the repository; an empty split leaves it to a draw."""
    read: Callable[[dict[str, Any], str], PublicRow]
    """(row, name of its file) -> our row, its split still empty; KeyError names a column that is not there."""
    licence: str
    citation: str


def _document(title: str, text: str, kind: str) -> dict[str, str]:
    return {"title": title, "text": text, "kind": kind}


def _row(dataset: str, name: object, question: str, answers: Iterable[str], documents: Any, why: str = "") -> PublicRow:
    answers, question = tuple(answers), question.strip()
    return PublicRow(
        id=f"{dataset}-{name or content_id(question, *answers)}",
        dataset=dataset,
        split="",
        question=question,
        answers=answers,
        documents=tuple(document for document in documents if document["text"].strip()),
        long_answer=why.strip(),
    )


def _hotpotqa(row: dict[str, Any], _: str) -> PublicRow:
    context, golden = row["context"], set(row["supporting_facts"]["title"])
    documents = [
        _document(title, " ".join(map(str.strip, sentences)), "golden" if title in golden else "distractor")
        for title, sentences in zip(context["title"], context["sentences"], strict=True)
    ]
    return _row("hotpotqa", row["id"], row["question"], [row["answer"]], documents)


def _pubmedqa(row: dict[str, Any], _: str) -> PublicRow:
    sections = zip(row["context"]["labels"], row["context"]["contexts"], strict=True)
    abstract = "\n".join(f"{label}: {text}" for label, text in sections)
    documents = [_document("", abstract, "golden")]
    return _row("pubmedqa", row["pubid"], row["question"], [row["final_decision"]], documents, row["long_answer"])


def _dpr(row: dict[str, Any], _: str, dataset: str) -> PublicRow:
    """DPR's rows as Tevatron packs them. Of several passages that hold the answer only the first is taken, which is the
    annotators' own where there is one: RAFT shows all oracles together, and one of these is enough."""
    golden, others = row["positive_passages"][:1], row["negative_passages"][: PASSAGES - 1]
    documents = [_document(p.get("title", ""), p["text"], "golden") for p in golden]
    documents += [_document(p.get("title", ""), p["text"], "distractor") for p in others]
    return _row(dataset, row["query_id"], row["query"], row["answers"], documents)


def _popqa(row: dict[str, Any], _: str) -> PublicRow:
    """The best passage that contains an answer is the golden one; others that do are neither that nor distractors."""
    documents: list[dict[str, str]] = []
    for passage in row["ctxs"][:PASSAGES]:
        title, text = passage.get("title") or "", passage["text"]
        holds = any(contains(f"{title} {text}", answer) for answer in row["answers"])
        if not holds or all(document["kind"] == "distractor" for document in documents):
            documents.append(_document(title, text, "golden" if holds else "distractor"))
    return _row("popqa", row["id"], row["question"], row["answers"], documents)


def _apibench(row: dict[str, Any], file: str) -> PublicRow:
    """The question stands in `code`, in one of two wordings. The file's name tells the hub, which has a rule of its own
    in `evaluation/apicalls.py`."""
    match = _INSTRUCTION.search(row["code"]) or _QUOTED_INSTRUCTION.search(row["code"])
    if not match:
        raise DataError(f"column 'code' holds no instruction: {row['code']!r:.80}")
    api = row["api_data"]
    documents = [_document(str(api.get("api_name", "")), json.dumps(api, ensure_ascii=False), "golden")]
    question = match[1].strip().strip("'\"")
    return _row(f"apibench_{file.partition('_')[0]}", "", question, [row["api_call"]], documents, match[2])


DPR_FILES = {"*train*.jsonl*": "train", "*dev*.jsonl*": "test"}
BENCHMARKS = {
    "hotpotqa": Benchmark(
        repository="hotpotqa/hotpot_qa",
        files={"distractor/train-*.parquet": "train", "distractor/validation-*.parquet": "test"},
        read=_hotpotqa,
        licence="CC BY-SA 4.0",
        citation="Yang et al., HotpotQA, EMNLP 2018, arXiv 1809.09600",
    ),
    "pubmedqa": Benchmark(
        repository="qiaojin/PubMedQA",
        files={"pqa_labeled/*.parquet": ""},
        read=_pubmedqa,
        licence="MIT; the abstracts are PubMed's",
        citation="Jin et al., PubMedQA, EMNLP 2019, arXiv 1909.06146",
    ),
    "nq": Benchmark(
        repository="Tevatron/wikipedia-nq",
        files=DPR_FILES,
        read=partial(_dpr, dataset="nq_open"),
        licence="questions CC BY-SA 3.0; Wikipedia passages CC BY-SA 3.0; DPR's selection CC BY-NC 4.0",
        citation="Kwiatkowski et al., Natural Questions, TACL 2019; Karpukhin et al., DPR, arXiv 2004.04906",
    ),
    "triviaqa": Benchmark(
        repository="Tevatron/wikipedia-trivia",
        files=DPR_FILES,
        read=partial(_dpr, dataset="triviaqa"),
        licence="questions for research, trivia sites keep their rights; Wikipedia passages CC BY-SA 3.0; DPR's "
        "selection CC BY-NC 4.0",
        citation="Joshi et al., TriviaQA, ACL 2017, arXiv 1705.03551; Karpukhin et al., DPR, arXiv 2004.04906",
    ),
    "webquestions": Benchmark(
        repository="Tevatron/wikipedia-wq",
        files=DPR_FILES,
        read=partial(_dpr, dataset="webq"),
        licence="questions CC BY 4.0; Wikipedia passages CC BY-SA 3.0; DPR's selection CC BY-NC 4.0",
        citation="Berant et al., WebQuestions, EMNLP 2013; Karpukhin et al., DPR, arXiv 2004.04906",
    ),
    "popqa": Benchmark(
        repository="awinml/popqa_longtail_w_gs",
        files={"*.jsonl": ""},
        read=_popqa,
        licence="questions MIT; Wikipedia passages CC BY-SA 3.0",
        citation="Mallen et al., PopQA, ACL 2023, arXiv 2212.10511; Asai et al., Self-RAG, arXiv 2310.11511",
    ),
    "apibench": Benchmark(
        repository="gorilla-llm/APIBench",
        files={"*_train.json": "train", "*_eval.json": "test"},
        read=_apibench,
        licence="Apache-2.0",
        citation="Patil et al., Gorilla, arXiv 2305.15334",
    ),
}
