"""A whole model in milliseconds: a tokenizer of 512 entries, a two-layer Llama, five documented functions.

`tokenizer()` needs neither torch nor transformers; `tests/lm/test_load.py` holds it equal to `lm.load.ModelTokenizer`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from ragdist.records import Chunk, Example, Prompt, Question, content_id
from ragdist.roles import Tokens

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FUNCTIONS = (
    ("pathlib.Path.read_text", "(encoding=None, errors=None)", "Open the file in text mode, read it, and close it."),
    ("codecs.open", "(filename, mode='r', encoding='utf-8')", "Open an encoded file and return a stream reader."),
    ("gzip.open", "(filename, mode='rb', compresslevel=9)", "Open a gzip-compressed file and return a file object."),
    ("json.dumps", "(obj, indent=None, sort_keys=False)", "Serialize an object to a JSON formatted string."),
    ("shutil.copy", "(src, dst, follow_symlinks=True)", "Copy data and mode bits, and return the destination."),
)
ASKED = ((0, "encoding", "None"), (1, "encoding", "'utf-8'"), (2, "compresslevel", "9"), (3, "sort_keys", "False"))
TEXT = (
    "You answer questions from documents. Some of the documents may be irrelevant or wrong.",
    "Question: What is the default of the parameter in this function? Answer with the value alone.",
    "<DOCUMENT> the file that is read and written, the number of rows and the name of the column </DOCUMENT>",
    "Paris is the capital of France, and Berlin is the capital of Germany. Yes, no, maybe.",
    *(f"{name}{signature}\n{text}" for name, signature, text in FUNCTIONS),
)


@cache
def bpe() -> Tokenizer:
    """A byte-level BPE of at most 512 entries, so that any text survives encode and decode."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXT, trainer)
    return made


class TinyTokenizer:
    """Plays Tokenizer on `bpe()` and the ChatML template."""

    def __init__(self) -> None:
        self.fingerprint = hashlib.sha256((bpe().to_str() + TEMPLATE).encode()).hexdigest()[:12]
        self.end: int = bpe().token_to_id("<|im_end|>")

    def encode(self, text: str) -> Tokens:
        """Tokens of plain text, no special tokens added."""
        found = bpe().encode(text, add_special_tokens=False)
        return Tokens(found.ids, found.offsets)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens, special tokens left out."""
        return bpe().decode(list(ids), skip_special_tokens=True)

    def chat(self, user: str, system: str = "") -> str:
        """ChatML up to where the answer begins."""
        turns = [("system", system)] if system else []
        said = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in [*turns, ("user", user)])
        return said + "<|im_start|>assistant\n"


@cache
def tokenizer() -> TinyTokenizer:
    """The tiny model's tokenizer; pickles, and is the same in every process."""
    return TinyTokenizer()


def model_folder(folder: Path, seed: int = 0, **shape: int) -> Path:
    """A two-layer Llama of 35,000 weights with its tokenizer, as `AutoModelForCausalLM` and `AutoTokenizer` read it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        initializer_range=0.2,  # far enough from uniform that every token of a text is told apart
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        **shape,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    out = folder / f"tiny-{seed}"
    model.save_pretrained(out)
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe(), unk_token="<|endoftext|>", **names)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(out)
    return out


def chunks() -> list[Chunk]:
    """One chunk for each of the five functions."""
    texts = ((name, f"{name}{signature}\n{text}") for name, signature, text in FUNCTIONS)
    return [Chunk(id=content_id(title, text), document_id=title, title=title, text=text) for title, text in texts]


def questions() -> list[Question]:
    """Four questions on the chunks, three to train on; the first two share their parameter and are near misses."""
    ids = [chunk.id for chunk in chunks()]
    return [
        Question(
            id=content_id("tiny", str(number)),
            text=f"What is the default of `{topic}` in `{FUNCTIONS[number][0]}`?",
            answers=(answer,),
            oracle_ids=(ids[number],),
            split="test" if number == 3 else "train",
            near_miss_ids=tuple(ids[:2][::-1][number : number + 1]),
            wrong_answers=("'ascii'",) if topic == "encoding" else (),
            topic=topic,
            dataset="tiny",
        )
        for number, topic, answer in ASKED
    ]


def prompts(count: int = 8) -> list[Prompt]:
    """Prompts of many lengths, from one to eight documents."""
    texts = [chunk.text for chunk in chunks()] * 2
    asked = questions()
    said = ("\n".join(texts[: 1 + number % 8]) + "\n" + asked[number % 4].text for number in range(count))
    return [
        Prompt(id=f"prompt-{number}", tokens=tuple(tokenizer().encode(tokenizer().chat(text)).ids))
        for number, text in enumerate(said)
    ]


def examples(count: int = 8) -> list[Example]:
    """The prompts with their answers and the end token."""
    answers = [tokenizer().encode(question.answers[0]).ids for question in questions()]
    return [
        Example(
            id=prompt.id,
            tokens=(*prompt.tokens, *answers[number % 4], tokenizer().end),
            prompt_tokens=len(prompt.tokens),
        )
        for number, prompt in enumerate(prompts(count))
    ]
