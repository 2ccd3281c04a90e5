"""The public benchmarks: where on the hub each one lies, on what terms, and how one of its rows reads as ours.

Each is taken from a repository that carries the passages too, as RAFT cannot train without:

    hotpotqa                  two paragraphs to reason over and eight that were retrieved, as the data set has them
    pubmedqa                  the abstract without its conclusion; answers yes, no or maybe; expert-labelled part
    nq triviaqa webquestions  DPR's passages: the first that holds the answer, and BM25's best that do not
    popqa                     the long tail with the passages that Contriever found, as Self-RAG published it
    apibench                  documentation of an API as JSON; the answer is the call

Those of `conflicts.py` judge alone: their documents contradict one another.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

from ragdist.data.sources import conflicts
from ragdist.data.sources.public_rows import PASSAGES, Benchmark, PublicRow, document, row_of, says
from ragdist.errors import DataError

_QUOTED_INSTRUCTION = re.compile(r"'Instruction': (.*?), 'Output': (.*)", re.DOTALL)
_INSTRUCTION = re.compile(r"###\s*Instruction:(.*?)###\s*Output:(.*)", re.DOTALL)


def _hotpotqa(row: dict[str, Any], _: str) -> PublicRow:
    context, golden = row["context"], set(row["supporting_facts"]["title"])
    documents = [
        document(title, " ".join(map(str.strip, sentences)), "golden" if title in golden else "distractor")
        for title, sentences in zip(context["title"], context["sentences"], strict=True)
    ]
    return row_of("hotpotqa", row["id"], row["question"], [row["answer"]], documents)


def _pubmedqa(row: dict[str, Any], _: str) -> PublicRow:
    sections = zip(row["context"]["labels"], row["context"]["contexts"], strict=True)
    abstract = "\n".join(f"{label}: {text}" for label, text in sections)
    documents = [document("", abstract, "golden")]
    return row_of("pubmedqa", row["pubid"], row["question"], [row["final_decision"]], documents, row["long_answer"])


def _dpr(row: dict[str, Any], _: str, dataset: str) -> PublicRow:
    """DPR's rows as Tevatron packs them. Of several passages that hold the answer only the first is taken, which is the
    annotators' own where there is one: RAFT shows all oracles together, and one of these is enough."""
    golden, others = row["positive_passages"][:1], row["negative_passages"][: PASSAGES - 1]
    documents = [document(p.get("title", ""), p["text"], "golden") for p in golden]
    documents += [document(p.get("title", ""), p["text"], "distractor") for p in others]
    return row_of(dataset, row["query_id"], row["query"], row["answers"], documents)


def _popqa(row: dict[str, Any], _: str) -> PublicRow:
    """The best passage that contains an answer is the golden one; others that do are neither that nor distractors."""
    documents: list[dict[str, str]] = []
    for passage in row["ctxs"][:PASSAGES]:
        title, text = passage.get("title") or "", passage["text"]
        holds = says(f"{title} {text}", row["answers"])
        if not holds or all(one["kind"] == "distractor" for one in documents):
            documents.append(document(title, text, "golden" if holds else "distractor"))
    return row_of("popqa", row["id"], row["question"], row["answers"], documents)


def _apibench(row: dict[str, Any], file: str) -> PublicRow:
    """The question stands in `code`, in one of two wordings. The file's name tells the hub, which has a rule of its own
    in `evaluation/apicalls.py`."""
    match = _INSTRUCTION.search(row["code"]) or _QUOTED_INSTRUCTION.search(row["code"])
    if not match:
        raise DataError(f"column 'code' holds no instruction: {row['code']!r:.80}")
    api = row["api_data"]
    documents = [document(str(api.get("api_name", "")), json.dumps(api, ensure_ascii=False), "golden")]
    question = match[1].strip().strip("'\"")
    return row_of(f"apibench_{file.partition('_')[0]}", "", question, [row["api_call"]], documents, match[2])


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
    **conflicts.BENCHMARKS,
}
