"""Code blocks of README.md, docs/*.md and the READMEs of clusters/, and the commands that they print."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "clusters").rglob("README.md"))]
TYPED = ("", "bash", "console")
"""Languages of blocks whose lines are to be typed; in `console` those behind `$ `, and output between them."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `kind` is its language with whatever stands behind it."""

    page: str
    line: int
    kind: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command that a page prints: `line` as a shell gets it, `written` what it writes by a here-document."""

    place: str
    line: str
    written: str = ""

    @property
    def target(self) -> str:
        """The file that a here-document goes to."""
        (name,) = re.findall(r"> *(\S+) <<", self.line)
        return name

    @property
    def parts(self) -> list[list[str]]:
        """Words of each command of the line; `a && b`, `a; b` and `a > b` are several."""
        words = shlex.shlex(self.line, posix=True, punctuation_chars="&;|<>")
        words.whitespace_split, words.commenters = True, ""
        parts: list[list[str]] = [[]]
        for word in words:
            if set(word) <= set("&;|"):
                parts.append([])
            elif word.startswith("#"):
                break
            else:
                parts[-1].append(word)
        return [part for part in parts if part]


def blocks(page: Path) -> list[Block]:
    """The page's blocks in their order."""
    found, text = [], page.read_text()
    for match in re.finditer(r"^( *)```([^\n]*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(str(page.relative_to(ROOT)), line, match[2].strip(), dedent(match[3])))
    return found


def commands(block: Block) -> list[Command]:
    """What a person types of this block, lines that end in a backslash joined."""
    found, lines = [], iter(block.text.replace("\\\n", " ").splitlines())
    for line in lines:
        if block.kind == "console" and not line.startswith("$ "):
            continue
        line = line.removeprefix("$ ").strip()
        here, written = re.search(r" <<'(\w+)'$", line), []
        while here and (following := next(lines)) != here[1]:
            written.append(following)
        if line and not line.startswith("#"):
            found.append(Command(block.place, line, "\n".join(written)))
    return found
