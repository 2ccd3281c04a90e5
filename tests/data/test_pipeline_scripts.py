"""The data pipeline over rows in other scripts: oracles are found, answers filtered, the same question kept once."""

import json
from pathlib import Path

import pytest

from ragdist.config.loader import resolve
from ragdist.data.audit import audit
from ragdist.data.pipeline import Pipeline
from ragdist.local import SerialMapper
from ragdist.storage.stages import Store
from tests.tiny import tokenizer

CASES = Path(__file__).parents[2] / ".." / "shared" / "cases"
ROWS = {
    "ko": ("열쇠는 누가 보관하나요?", "정나무", "열쇠는 정나무가 보관한다.", "담당은 정나무이다."),
    "ja": ("鍵は誰が持つ\uff1f", "山田花子", "鍵は山田花子が持つ。", "係は山田花子です。"),
    "th": ("ใครเก็บกุญแจ", "สมชาย", "กุญแจอยู่กับสมชายครับ", "หัวหน้าคือสมชาย"),
    "ar": ("من يحفظ المفتاح؟", "سامي", "المفتاح عند سامي.", "جاء علي وسامي معا"),
    "he": ("מי שומר את המפתח?", "דנה", "המפתח אצל דנה.", "נתנו לדנה עט"),
    "ta": ("சாவி யாரிடம்?", "குமரன்", "சாவி குமரனிடம், குமரன் வீட்டில்", "தலைவர் குமரன்தான்"),
    "en": ("How many seats?", "1000", "There are 1,000 seats.", "A hall of 1000 seats."),
}


def pipeline(tmp_path, **corpus):
    settings = {"corpus": corpus, "contexts": {"documents": 2, "oracle_fraction": 0, "too_few": "fewer"}}
    return Pipeline(resolve(settings), Store(tmp_path / "stages"), tokenizer(), SerialMapper())


def case(name):
    if not (CASES / name).is_dir():
        pytest.skip("../shared/cases is not beside the repository")
    return CASES / name


def test_oracles_of_korean_questions_are_linked(tmp_path):
    """T9: the case that was reported."""
    folder = case("korean")
    made = pipeline(
        tmp_path, source="folder", folder=str(folder / "documents"), questions=[str(folder / "questions.jsonl")]
    )
    assert all(q.answers[0] in made.chunk_by_id[q.oracle_ids[0]].text for q in made.questions)
    assert len(list(made.questions)) == 5


def test_korean_distractor_with_a_particle_behind_the_answer_is_not_shown(tmp_path):
    """T10: the case that was reported; what cannot be filled otherwise is counted."""
    made = pipeline(tmp_path, source="records", questions=[str(case("korean_filter") / "records.jsonl")])
    for question, found in zip(made.questions, made.candidates, strict=True):
        assert not any(question.answers[0] in made.chunk_by_id[i].text for i in found.chunk_ids)


def test_same_question_in_another_form_is_not_trained_on(tmp_path):
    """T11: the case that was reported."""
    made = pipeline(tmp_path, source="records", questions=[str(case("dedupe") / "records.jsonl")])
    assert [q.text for q in made.questions if q.split == "train"] == ["Which kiln is new?"]
    assert sum(q.split == "test" for q in made.questions) == 4


@pytest.fixture
def mixed(tmp_path):
    rows = [
        {
            "question": question,
            "answers": [answer],
            "split": "train",
            "documents": [
                {"title": name, "text": golden, "kind": "golden"},
                {"title": f"{name}2", "text": other, "kind": "distractor"},
            ],
        }
        for name, (question, answer, golden, other) in ROWS.items()
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return pipeline(tmp_path, source="records", questions=[str(tmp_path / "rows.jsonl")])


def test_no_context_without_its_oracle_shows_an_answer_in_any_script(mixed):
    """T1, T7, T10: and `audit` finds none."""
    for question, found in zip(mixed.questions, mixed.candidates, strict=True):
        titles = {mixed.chunk_by_id[i].title for i in found.chunk_ids}
        own = mixed.chunk_by_id[question.oracle_ids[0]].title
        assert len(titles) == 2 and f"{own}2" not in titles
    found = audit(mixed.questions, mixed.contexts, mixed.chunk_by_id, mixed.examples, mixed.settings)
    assert found.answer_contexts == 0 and found.contexts == len(ROWS)


def test_oracles_are_linked_in_any_script(tmp_path):
    """T9"""
    (tmp_path / "docs").mkdir()
    for name, (_, _, golden, _) in ROWS.items():
        (tmp_path / "docs" / f"{name}.txt").write_text(golden)
    rows = [{"question": q, "answers": [a], "split": "train"} for q, a, _, _ in ROWS.values()]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = pipeline(tmp_path, source="folder", folder=str(tmp_path / "docs"), questions=[str(tmp_path / "rows.jsonl")])
    names = {row[0]: name for name, row in ROWS.items()}
    assert {made.chunk_by_id[q.oracle_ids[0]].title for q in made.questions} == set(ROWS)
    assert all(made.chunk_by_id[q.oracle_ids[0]].title == names[q.text] for q in made.questions)


def test_row_whose_answer_is_an_article_is_kept(tmp_path):
    """T15: multiple choice, and a Vietnamese name."""
    documents = [{"title": "t", "text": "Trả lời: An.", "kind": "golden"}]
    rows = [{"question": f"Q {n}?", "answers": [n], "split": "train", "documents": documents} for n in ("A", "An", "B")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = pipeline(tmp_path, source="records", questions=[str(tmp_path / "rows.jsonl")])
    assert {q.answers for q in made.questions} == {("A",), ("An",), ("B",)}
