"""Pages of the site that no file of docs/ is: the README, the gallery of jobs/settings, and files that others link to.

A link from a page to a file outside docs/ works in a checkout. The site has a page for each such file, so it works
there as well, and `mkdocs build --strict` finds every link that leads nowhere.
"""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
HIDDEN = "---\nsearch: {exclude: true}\n---\n\n"
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
    """Adds the README, the gallery, and what is linked to from any page, and from there on."""
    files.append(File.generated(config, "examples.md", content=gallery()))
    waiting = {ROOT / "README.md", *Path(config.docs_dir).rglob("*.md")}
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        text = path.read_text() if path.suffix == ".md" else listing(path)
        if not path.is_relative_to(config.docs_dir):
            files.append(File.generated(config, uri(path.relative_to(ROOT).as_posix()), content=text))
        if path.suffix == ".md":
            waiting |= {found for link in LINK.findall(text) if shown(found := target(path, link))} - seen


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links to files of the repository leading to their pages here."""
    start = "" if page.file.src_uri == "index.md" else posixpath.dirname(page.file.src_uri)
    folder = posixpath.dirname(source(page.file.src_uri))

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        return f"]({posixpath.relpath(uri(target), start or '.')}"

    return LINK.sub(moved, markdown)


def uri(path: str) -> str:
    """Where a file of the repository stands in the site."""
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def source(page: str) -> str:
    """The file of the repository that a page shows: `uri` the other way round."""
    if page == "index.md":
        return "README.md"
    return page.removeprefix("repository/") if page.startswith("repository/") else f"docs/{page}"


def target(page: Path, link: str) -> Path:
    """Where a link of a page leads."""
    return Path(os.path.normpath(page.parent / link))


def shown(path: Path) -> bool:
    """Whether the file or folder needs a page made of it: it is in the repository and not in docs/."""
    return path.is_relative_to(ROOT) and path.exists() and not path.is_relative_to(ROOT / "docs")


def listing(path: Path) -> str:
    """A file of code, or the names in a folder, as a page that the search leaves out."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        text, kind = "\n".join(sorted(one.name for one in path.iterdir() if one.name[0] not in "_.")), "text"
    else:
        text, kind = path.read_text(), path.suffix.lstrip(".") or "text"
    return f"{HIDDEN}# `{name}`\n\n````{kind}\n{text}\n````\n"


def gallery() -> str:
    """Each file of jobs/settings: what it says of itself, the command, the settings."""
    text = ["# Examples", "Settings files that come with ragdist, in `jobs/settings/`. Copy one and change it.", ""]
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
    return [
        f"### {path.name}",
        "",
        said.replace("<", "&lt;"),
        "",
        f'??? example "Settings of {path.name}"',
        "",
        *folded,
        "",
    ]
