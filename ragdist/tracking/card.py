"""The card of a tuned model, README.md in its folder: what it was tuned on, how it is asked, how good it is.

What it was tuned on stands there from the first; the rest is known when the run ends, and comes before the settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ragdist.config import PromptsConfig, Settings
from ragdist.storage.atomic import atomic_file
from ragdist.tracking.run import versions

CARD = "README.md"
ASKED, MADE_BY = "\n## The prompt\n", "\n## Settings\n"
METRICS = {"subspan": "Subspan EM", "em": "EM", "f1": "F1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a model is asked, for those who have no ragdist."""

    example: str
    """A whole prompt."""
    config: PromptsConfig
    instructions: tuple[str, str]
    """With documents, without."""
    marks: str
    """Pattern of what a backslash is put behind in titles and texts."""
    between: str
    """The same in a whole document; empty for nothing."""
    joiner: str
    """Is put behind the latter."""
    words: tuple[str, ...]
    """What in a text would be the chat template's own, beside special tokens."""
    breaker: str
    """Is put behind the first sign of each of these."""
    chat: bool
    """Whether there is a chat template."""
    folded: bool
    """It has no place for a system message, which stands before the user's."""
    parts: bool
    """It takes texts as lists of parts."""
    begin: str
    """Stands before a prompt where there is no template."""
    max_tokens: int
    """Longest prompt and answer."""
    answer_tokens: int
    end: int
    """Id of the token that ends an answer."""


def begun(name: str, base: str, told: str, settings: Settings, blocks: Iterable[str]) -> str:
    """The card of a model that is just tuned.

    Args:
        name: of what it is, such as RAFT.
        base: what it was tuned from.
        told: how, in a sentence or two.
        settings: all settings.
        blocks: those of them that it depends on.
    """
    values = settings.model_dump(mode="json")
    made_by = yaml.safe_dump({key: values[key] for key in blocks}, sort_keys=False).strip()
    made_with = "\n".join(f"- {package} {version}" for package, version in versions().items())
    return f"""---
base_model: {base}
library_name: transformers
tags: [ragdist, {name.lower()}]
---

{told}
{MADE_BY}
```yaml
{made_by}
```

## Versions

{made_with}
"""


def conclude(model: Path, run: str, asking: Asking, scores: Sequence[Mapping[str, Any]]) -> None:
    """Writes into the card how the model is asked and what it scored; in place of what stood there of this."""
    path = model / CARD
    text = path.read_text()
    before, rest = text.partition(ASKED)[0], text.partition(MADE_BY)[1:]
    parts = [ASKED, _prompt(asking), "\n## Use\n", _use(run, asking), "\n## Scores\n", _scores(scores)]
    with atomic_file(path) as half:
        half.write_text("\n".join([before.partition(MADE_BY)[0].rstrip("\n"), *parts]) + "".join(rest))


def _prompt(asking: Asking) -> str:
    return f"""The model answers this text, to the letter; {{...}} stand for a question and two documents. Without
documents it is asked another one, see below. Prompt and answer are at most {asking.max_tokens} tokens: cut long
documents at their ends.

````text
{asking.example}
````
"""


def _use(run: str, asking: Asking) -> str:
    return f"""With ragdist, which retrieves from the run's documents:

```bash
ragdist chat {run}
ragdist serve {run}
```

With transformers:

```python
{_transformers(asking)}
```

With vLLM, after the lines above from `import re` to `text = ...`, without the one that begins with `model`:

```python
from vllm import LLM, SamplingParams

if __name__ == "__main__":  # its processes read this file again
    how = SamplingParams(temperature=0, max_tokens={asking.answer_tokens}, stop_token_ids=[{asking.end}])
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    engine = LLM(MODEL, generation_config="vllm", max_model_len={asking.max_tokens})
    print(engine.generate({{"prompt_token_ids": tokens}}, how)[0].outputs[0].text)
```

vLLM makes bfloat16 of float32, unless it gets `dtype="float32"`. On a CPU give `LLM` also `enforce_eager=True` (else it
compiles for minutes) and `kv_cache_memory_bytes=2**30` (else it wants nearly all memory).

With Ollama:

```bash
ragdist export {run} --form gguf --to out
ollama create tuned -f out/Modelfile
```

```python
import json
import urllib.request

options = {{"temperature": 0, "num_predict": {asking.answer_tokens}}}
asked = {{"model": "tuned", "prompt": text, "raw": True, "stream": False, "options": options}}
answer = urllib.request.urlopen("http://127.0.0.1:11434/api/generate", json.dumps(asked).encode())
print(json.load(answer)["response"])
```
"""


def _transformers(asking: Asking) -> str:
    config, (instruction, closed) = asking.config, asking.instructions
    whole = "shown[-1].strip()" if asking.joiner == " " else "shown[-1]"
    between = f"\n        shown[-1] = re.sub({asking.between!r}, lambda found: found[0] + {asking.joiner!r}, {whole})"
    return f"""import re

from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

MODEL = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(MODEL)
model = AutoModelForCausalLM.from_pretrained(MODEL, dtype="auto")
DOCUMENT, SEPARATOR = {config.document!r}, {config.separator!r}
MARKS = re.compile({asking.marks!r}, re.MULTILINE)  # what in a document would be taken for the words around it
SPECIAL = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special and len(str(token)) > 1]
OWN = sorted([*SPECIAL, *{list(asking.words)!r}], key=len, reverse=True)  # what would be taken for the chat's own


def harmless(text):
    pattern = "|".join(map(re.escape, OWN)) or "(?!)"
    return re.sub(pattern, lambda found: found[0][0] + {asking.breaker!r} + found[0][1:], text)


def prompt(question, documents):
    \"\"\"The text that the model was trained on; documents are pairs of title and text, none is the closed book.\"\"\"
    shown = []
    for number, (title, text) in enumerate(documents, start=1):
        title, text = MARKS.sub(r"\\g<0>\\\\", " ".join(title.splitlines())), MARKS.sub(r"\\g<0>\\\\", text)
        shown.append(DOCUMENT.format(number=number, title=title, text=text)){between if asking.between else ""}
    if shown:
        system, how = {config.system!r}, {instruction!r}
        user = {config.question!r}.format(documents=SEPARATOR.join(shown), question=question, instruction=how)
    else:
        system, how = {config.system_closed!r}, {closed!r}
        user = {config.question_closed!r}.format(question=question, instruction=how)
    {_message(asking)}


text = prompt("What is ...?", [("A title", "A text."), ("Another title", "Another text.")])
tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")
ends = {{"eos_token_id": model.generation_config.eos_token_id, "pad_token_id": {asking.end}}}
how = GenerationConfig(max_new_tokens={asking.answer_tokens}, do_sample=False, **ends)
answer = model.generate(**tokens, generation_config=how)[0, tokens.input_ids.shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))"""


def _message(asking: Asking) -> str:
    both = '"\\n\\n".join(harmless(words) for words in (system, user) if words)'
    if not asking.chat:
        return f'return {asking.begin!r} + {both} + "\\n"'
    one = '[{"type": "text", "text": %s}]' if asking.parts else "%s"
    said = '[{"role": role, "content": ' + one % "harmless(words)" + "} for role, words in given if words]"
    if asking.folded:
        said = '[{"role": "user", "content": ' + one % both + "}]"
    lines = [
        *([] if asking.folded else ['given = (("system", system), ("user", user))']),
        f"said = {said}",
        "return tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)",
    ]
    return "\n    ".join(lines)


def _scores(scores: Sequence[Mapping[str, Any]]) -> str:
    head = f"| model | documents | questions | {' | '.join(METRICS.values())} |\n|---|---|{'---|' * (1 + len(METRICS))}"
    lines = [
        f"| {row['model']} | {row['condition']} | {row['rows']} | {' | '.join(_score(row[name]) for name in METRICS)} |"
        for row in scores
    ]
    return "\n".join([head, *lines, "", "With 95% intervals; report.html of the run says what each means.", ""])


def _score(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.2f} ({value['low']:.2f} to {value['high']:.2f})"
