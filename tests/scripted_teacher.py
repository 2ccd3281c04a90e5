"""A teacher by rules: a real Teacher whose answers can be known beforehand.

A text states facts as `The X is Y.`; asked for questions it writes `What is the X?` for each fact, asked for an answer
it quotes the fact. It keeps replies as a ledger does, and notes the calls that had to be made.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from ragdist.errors import Stopped
from ragdist.records import Reply, Request
from ragdist.teacher.reply_cache import key_of

FACT = re.compile(r"The ([\w -]+?) is ([^.]+)\.")
Manner = Callable[[Request], str | Reply | None]


def kind(request: Request) -> str:
    """ask, verdict, repair or answer, by the default wording of the settings."""
    if request.text.startswith("Write "):
        return "ask"
    if request.text.endswith("Say yes or no."):
        return "verdict"
    return "repair" if "is not acceptable:" in request.text else "answer"


def right(request: Request) -> str:
    """The reply of a teacher without fault."""
    if kind(request) == "ask":
        count, facts = int(request.text.split()[1]), FACT.findall(request.text.split("\n\n", 1)[1])
        lines = [f"{n}. What is the {name}?" for n, (name, _) in enumerate(facts, start=1)]
        return "Here are the questions:\n\n" + "\n".join(lines[:count])
    documents, question = request.text.split("Question: ", 1)
    asked = re.match(r"What is the (.+)\?", question)
    found = dict(FACT.findall(documents)).get(asked[1]) if asked else None
    if kind(request) == "verdict":
        said = re.search(r"^Answer: (.+)$", question, re.MULTILINE)
        return "Yes." if found and said and found == said[1] else "No."
    if found is None:
        return "The text is silent.\n<ANSWER>: unanswerable"
    return f"It says ##begin_quote## The {asked[1]} is {found}. ##end_quote##\n<ANSWER>: {found}"


class ScriptedTeacher:
    """Plays Teacher.

    Args:
        manner: replies, or None where `right` shall; several share what is kept by being one object.
        stops_after: calls after which it raises Stopped, as one whose budget is spent.
    """

    def __init__(self, manner: Manner = right, stops_after: int = 10**9) -> None:
        self.manner, self.stops_after = manner, stops_after
        self.fingerprint = "scripted"
        self.kept: dict[str, Reply] = {}
        self.calls: list[Request] = []
        self.closed = 0

    def ask(self, requests: Iterable[Request], *, what: str) -> Iterator[Reply]:
        """See `roles.Teacher`."""
        for request in requests:
            key = key_of(request, self.fingerprint)
            if key not in self.kept:
                if len(self.calls) >= self.stops_after:
                    raise Stopped(f"{what}: the budget is spent")
                self.calls.append(request)
                said = self.manner(request)
                self.kept[key] = said if isinstance(said, Reply) else reply(right(request) if said is None else said)
            yield self.kept[key]

    def close(self) -> None:
        """Counts that it was let go."""
        self.closed += 1


def reply(text: str, ended: bool = True, failed: str = "") -> Reply:
    """A reply with this text."""
    return Reply(id="", text=text, ended=ended, read=1, written=1, failed=failed)
