"""Names of files that answers are kept in."""

from pathlib import Path

from ragdist.evaluation.ask import path_of


def test_labels_have_files_of_their_own_that_can_be_made(tmp_path):
    labels = ["日本", "中文", "base + 守", "x" * 300, "x" * 301, "é" * 200]
    assert len({path_of(tmp_path, label) for label in labels}) == len(labels)
    for label in labels:
        path_of(tmp_path, label).touch()


def test_names_of_earlier_versions_are_found_again():
    assert path_of(Path(), "RAFT P=60% + isolation").name == "RAFT-P-60-isolation.jsonl"
