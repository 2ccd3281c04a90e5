"""What becomes of checkpoints when a run is finished."""

import logging

from ragdist.lm import checkpoints


def test_only_checkpoints_beside_a_whole_model_are_forgotten(tmp_path, caplog):
    """U13: those of each lesson, and not of one that is under way."""
    for lesson in (".", "reciter", "discoverer"):
        (tmp_path / lesson / "checkpoints" / "checkpoint-3" / "global_step3").mkdir(parents=True)
        (tmp_path / lesson / "checkpoints" / "checkpoint-3" / "state.pt").write_bytes(b"x" * 100)
    for lesson in (".", "reciter"):
        (tmp_path / lesson / "model").mkdir()
    with caplog.at_level(logging.INFO, "ragdist"):
        checkpoints.forget(tmp_path)
    assert [path.parent.name for path in tmp_path.rglob("checkpoints")] == ["discoverer"]
    assert caplog.text.count("run.keep_checkpoints") == 2
