"""Pages of the site that no file of docs/ is: the README, the gallery of jobs/settings, the notebook.

A link from a page to a file outside docs/ is right in a checkout; here the name of that file stands in its place.
"""

import json
import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
SYSTEMS = {"raft": "RAFT", "atm": "ATM", "duet": "DuetRAG", "sweep": "Sweeps", "your": "Your own documents"}


def on_config(config: MkDocsConfig) -> None:
    """Fills a folder of the nav, `Decisions: decisions/`, with its pages."""
    docs = Path(config.docs_dir)
    for entry in config.nav:
        for title, place in entry.items():
            if isinstance(place, str) and place.endswith("/"):
                pages = sorted(path.relative_to(docs).as_posix() for path in (docs / place).glob("*.md"))
                entry[title] = sorted(pages, key=lambda page: not page.endswith("README.md"))


def on_files(files: Files, *, config: MkDocsConfig) -> None:
    """Adds the README, the gallery and the notebook."""
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text()))
    files.append(File.generated(config, "examples.md", content=gallery()))
    files.append(File.generated(config, "notebook.md", content=notebook()))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links from where it stands in the site, and names in place of what the site has not."""
    shown = page.file.src_uri
    folder = ROOT if shown == "index.md" else (ROOT / "docs" / shown).parent

    def moved(link: re.Match[str]) -> str:
        start, text, place, anchor = link[1], link[2], link[3], link[4] or ""
        target = Path(os.path.normpath(folder / place))
        if site := site_path(target):
            return f"{start}[{text}]({os.path.relpath(site, os.path.dirname(shown) or '.')}{anchor})"
        name = target.relative_to(ROOT).as_posix()
        return text if name in text else f"{text} (`{name}`)"

    return LINK.sub(moved, markdown)


def site_path(target: Path) -> str:
    """Where a file of the repository stands in the site, a folder by its README; empty where it does not."""
    if target == ROOT / "README.md":
        return "index.md"
    if target.is_dir():
        target /= "README.md"
    docs = ROOT / "docs"
    if target == docs / "notebook.ipynb":
        return "notebook.md"
    return target.relative_to(docs).as_posix() if target.is_relative_to(docs) and target.is_file() else ""


def notebook() -> str:
    """The cells of the notebook as a page."""
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    fences = {"markdown": ("", ""), "code": ("```python\n", "\n```")}
    texts = [("".join(cell["source"]).join(fences[cell["cell_type"]])) for cell in cells]
    return "\n\n".join([*texts, "The same to run: `docs/notebook.ipynb` of the repository."])


def gallery() -> str:
    """Each file of jobs/settings: what it says of itself, the command, the settings."""
    text = ["# Examples", "", "Settings files that come with ragdist, in `jobs/settings/`. Copy one and change it.", ""]
    paths = sorted((ROOT / "jobs" / "settings").glob("*.yaml"))
    for prefix, title in SYSTEMS.items():
        text += [f"## {title}", ""]
        for path in (path for path in paths if re.split("[-.]", path.name)[0] == prefix):
            text += example(path)
    return "\n".join(text)


def example(path: Path) -> list[str]:
    """The lines of one example."""
    lines = path.read_text().splitlines()
    head = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    said = " ".join(line.lstrip("# ") for line in lines[:head]).replace("<", "&lt;")
    folded = [f"    {line}" for line in ("```yaml", *lines[head:], "```")]
    return [f"### {path.name}", "", said, "", f'??? example "Settings of {path.name}"', "", *folded, ""]
