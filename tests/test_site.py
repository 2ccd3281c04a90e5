"""The documentation as pages: strict, searchable, and nothing in it comes from elsewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a site just built; a link that leads nowhere fails here."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


def test_gallery_shows_every_settings_file(site):
    page = (site / "examples" / "index.html").read_text()
    paths = list((ROOT / "jobs" / "settings").glob("*.yaml"))
    for path in paths:
        assert re.search(rf"<h3[^>]*>{re.escape(path.name)}", page), f"{path.name} is not in the gallery"
    assert page.count("<details") == len(paths) and "oracle_fraction" in page


def test_search_finds_pages_and_settings_but_no_code(site):
    rows = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    found = {row["location"] for row in rows}
    assert {"", "raft/", "install/", "examples/", "decisions/0002-attacked-list/"} <= found
    assert any("contexts.oracle_fraction" in row["text"] + row["title"] for row in rows)
    assert not [place for place in found if re.match(r"repository/.*\.py", place)]


def test_pages_fetch_nothing_from_elsewhere(site):
    """Fonts, scripts, styles and pictures are in the folder: it can be read without a network."""
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|img|iframe|link)\b[^>]*>", page.read_text()):
            assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag), f"{page}: {tag}"
