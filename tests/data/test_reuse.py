"""Every field of a data block names the stages that read it, or is listed here as one that changes nothing of them."""

import pytest

from ragdist.config import ContextsConfig, CorpusConfig, PromptsConfig, RetrievalConfig, TeacherConfig
from ragdist.config.data import WORDING
from ragdist.data import pipeline
from ragdist.data.retrieval import hybrid
from ragdist.data.teaching import stages as teaching

PATHS = {"folder", "questions", "packages", "benchmark", "revision"}
"""What lies there is an input of the stage: the digest of the files, versions of packages, the hub's commit."""
CALLS = {"key_variable", "in_flight", "deadline_s", "attempts", "budget_tokens", "budget_usd"}
PRICES = {"usd_per_million_read", "usd_per_million_written"}
TEACHER = {"url", "model", "engine", "reasoning", *CALLS, *PRICES}
"""Who the teacher is is an input of each stage; `reasoning` is whether there is one; calls change no reply."""


@pytest.mark.parametrize(
    ("block", "named_by", "elsewhere"),
    [
        (CorpusConfig, pipeline.DOCUMENTS, PATHS | {"source", "datasets", "columns", "truths"}),
        (CorpusConfig, pipeline.QUESTION_FILES, PATHS | {"source", "near_duplicates", "similarity"}),
        (ContextsConfig, pipeline.SHOWABLE | pipeline.CANDIDATES | pipeline.CONTEXTS, set()),
        # What is shown is cut to `documents` alone; the rest draws from the questions that are left.
        (ContextsConfig, pipeline.SHOWABLE, pipeline.CANDIDATES | pipeline.CONTEXTS),
        # The candidates are the same for every P; questions are an input.
        (ContextsConfig, pipeline.CANDIDATES, {"oracle_fraction", "draw", "too_many_oracles"}),
        # Questions and candidates are inputs.
        (ContextsConfig, pipeline.CONTEXTS, {"distractors", "hard_share", "filter_answers", "too_many_oracles"}),
        # `cut_answers` brings the whole rows as an input.
        (PromptsConfig, pipeline.QUOTES, {"system", "system_closed", "cut_answers"} | WORDING),
        # `embedder` by its fingerprint; `count` is how many are asked for.
        (RetrievalConfig, hybrid.WORDS | hybrid.VECTORS | hybrid.FUSION, {"embedder", "count"}),
        (TeacherConfig, teaching.ASKING, TEACHER | {"answer", "repair", "invalid", "judge", "verdict"}),
        # The questions that are asked are an input.
        (TeacherConfig, teaching.ANSWERING | teaching.JUDGING, TEACHER | (teaching.ASKING - {"max_new_tokens"})),
    ],
)
def test_every_field_names_the_stage_or_changes_nothing_of_it(block, named_by, elsewhere):
    fields = set(block.model_fields)
    assert named_by <= fields and elsewhere <= fields
    assert fields - named_by - elsewhere == set()
