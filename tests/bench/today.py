"""A round of ATM as people run it today: a program a stage, files in between. What our benchmarks compare with.

python -m tests.bench.today STAGE FOLDER, for each of STAGES in order

Written from the description of the released flow (papers.md 4.9), with what slows it down and without what is wrong in
it. A stage loads its models with plain transformers and ends when its file is written:

    forge, forge-again   n sampling passes one after another, batches of 8 in file order              -> CSV
    score                each forgery alone in the QA prompt, batches of 32 in file order, logits of
                         all positions, cross-entropy from them                                       -> CSV
    pairs, lists         no model                                                                     -> JSONL
    dpo                  policy and a second, frozen model; batches of 2 pairs, full logits           -> model
    mito                 likewise; clean and attacked rows padded to one batch                        -> model

Wording, parsing and the choice of pairs are ragdist's own (`forging` and `training_rows` of `systems.atm`), and draws
have ragdist's keys, so both flows work on the same rows: what differs is how models are held, fed and chained.

Axes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, logsigmoid, pad
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from ragdist.algo.sampling import choose
from ragdist.config import Settings, TrainConfig
from ragdist.draws import rng_for
from ragdist.lm.load import dtype_of, load_tokenizer
from ragdist.lm.source import resolve
from ragdist.records import Bundle, Example, Forgery, Grade, OpenQuestion, Prompt, Written, as_row, from_row
from ragdist.systems.atm import forging, training_rows

FORGE_BATCH, SCORE_BATCH, LEARN_BATCH = 8, 32, 2


class Today:
    """Plays Model as those programs run one."""

    def __init__(self, model: Any, tokenizer: Any, version: int = 0) -> None:
        self.model, self.tokenizer, self.version = model, tokenizer, version
        self.ends = {tokenizer.end}

    @torch.inference_mode()
    def write(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        samples: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[list[Written]]:
        """All prompts once for each sample, whole batches until their longest text is finished."""
        ends = self.model.generation_config.eos_token_id
        self.ends = {self.tokenizer.end, *(ends if isinstance(ends, list) else [ends])}
        for sample in range(samples):
            for at in range(0, len(prompts), FORGE_BATCH):
                batch = prompts[at : at + FORGE_BATCH]
                keys = [rng_for(seed, "write", f"{prompt.id}\x1f{sample}").getrandbits(63) for prompt in batch]
                ids_BT, mask_BT = padded([prompt.tokens for prompt in batch], side="left")
                draw = Draw(torch.tensor(keys), ids_BT.shape[1], temperature, top_p)
                out_BT = self.model.generate(
                    input_ids=ids_BT,
                    attention_mask=mask_BT,
                    do_sample=False,
                    max_new_tokens=max_new_tokens,
                    eos_token_id=sorted(self.ends),
                    pad_token_id=self.tokenizer.end,
                    logits_processor=LogitsProcessorList([draw]),
                )
                new_BT = out_BT[:, ids_BT.shape[1] :].tolist()
                yield [self._written(prompt.id, sample, tokens) for prompt, tokens in zip(batch, new_BT, strict=True)]

    def _written(self, prompt_id: str, sample: int, tokens: list[int]) -> Written:
        until = next((at for at, token in enumerate(tokens) if token in self.ends), len(tokens))
        ended, text = until < len(tokens), self.tokenizer.decode(tokens[:until])
        return Written(prompt_id=prompt_id, sample=sample, text=text, tokens=until + ended, ended=ended)

    @torch.inference_mode()
    def read(self, examples: Sequence[Example]) -> Iterator[list[tuple[str, list[float]]]]:
        """Log-probabilities of the answers' tokens, from the logits of every position."""
        for at in range(0, len(examples), SCORE_BATCH):
            batch = examples[at : at + SCORE_BATCH]
            ids_BT, mask_BT = padded([row.tokens for row in batch])
            labels_BT = labels(ids_BT, mask_BT, [row.prompt_tokens for row in batch])
            logits_BTV = self.model(ids_BT, attention_mask=mask_BT, use_cache=False).logits
            nll_BT = token_nll(logits_BTV, labels_BT)
            ends = [(row.prompt_tokens - 1, len(row.tokens) - 1) for row in batch]
            yield [(row.id, (-nll_BT[b, slice(*ends[b])]).tolist()) for b, row in enumerate(batch)]


class Draw(LogitsProcessor):
    """Leaves only the token that ragdist would draw, so that both flows write the same texts."""

    def __init__(self, keys_B: Tensor, prompt_tokens: int, temperature: float, top_p: float) -> None:
        self.keys_B, self.prompt_tokens, self.how = keys_B, prompt_tokens, {"temperature": temperature, "top_p": top_p}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen_B = choose(scores, self.keys_B, input_ids.shape[1] - self.prompt_tokens, **self.how)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen_B[:, None], 0.0)


def padded(rows: Sequence[Sequence[int]], side: str = "right") -> tuple[Tensor, Tensor]:
    """[B, T] token ids and attention mask."""
    made = ([torch.tensor(row) for row in rows], [torch.ones(len(row), dtype=torch.long) for row in rows])
    ids_BT, mask_BT = (pad_sequence(part, batch_first=True, padding_side=side) for part in made)
    return ids_BT, mask_BT


def labels(ids_BT: Tensor, mask_BT: Tensor, prompts: Sequence[int]) -> Tensor:
    """[B, T] ids, -100 on prompt and padding."""
    outside_BT = torch.arange(ids_BT.shape[1]) < torch.tensor(prompts)[:, None]
    return ids_BT.masked_fill(outside_BT | (mask_BT == 0), -100)


def token_nll(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """[B, T] nats of the label after each position, 0 where there is none; a softmax at every position."""
    next_BT = pad(labels_BT, (0, 1), value=-100)[:, 1:]
    return cross_entropy(logits_BTV.flatten(0, 1).float(), next_BT.flatten(), reduction="none").view_as(next_BT)


def forward(model: Any, rows: Sequence[Bundle]) -> tuple[Tensor, Tensor]:
    """Logits [2B, T, V] and labels [2B, T] of the first sequences of all rows, then of the second."""
    pairs = [(row.tokens[side], row.prompt_tokens[side]) for side in (0, 1) for row in rows]
    ids_BT, mask_BT = padded([tokens for tokens, _ in pairs])
    logits_BTV = model(ids_BT, attention_mask=mask_BT, use_cache=False).logits
    return logits_BTV, labels(ids_BT, mask_BT, [prompt for _, prompt in pairs])


def dpo_loss(policy: Any, reference: Any, rows: Sequence[Bundle], step: Sequence[Bundle], settings: Settings) -> Tensor:
    """This batch's share of the step's mean over pairs."""

    def margins(model: Any) -> Tensor:
        chosen, rejected = (-token_nll(*forward(model, rows)).sum(1)).chunk(2)
        return chosen - rejected

    with torch.no_grad():
        expected = margins(reference)
    return -logsigmoid(settings.atm.dpo_beta * (margins(policy) - expected)).sum() / len(step)


def mito_loss(
    policy: Any, reference: Any, rows: Sequence[Bundle], step: Sequence[Bundle], settings: Settings
) -> Tensor:
    """This batch's share of the step's mean over answer tokens: loss on the attacked list + weight * (KL - KL_ref).

    KL(clean || attacked), shifted as it should be. The reference's part has no gradient, it is what it costs.
    """

    def shift(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
        halves = zip(logits_BTV[:, :-1].chunk(2), (labels_BT[:, 1:] != -100).chunk(2), strict=True)
        clean_NV, attacked_NV = (half[wanted].float().log_softmax(-1) for half, wanted in halves)
        return kl_div(attacked_NV, clean_NV, log_target=True, reduction="sum")

    with torch.no_grad():
        before = shift(*forward(reference, rows))
    logits_BTV, labels_BT = forward(policy, rows)
    answers = token_nll(logits_BTV.chunk(2)[1], labels_BT.chunk(2)[1]).sum()
    return (answers + settings.atm.kl_weight * (shift(logits_BTV, labels_BT) - before)) / sum(
        row.target_tokens for row in step
    )


def accumulate(
    loss: Callable[..., Tensor], policy: Any, reference: Any, step: Sequence[Bundle], settings: Settings
) -> None:
    """Gradients of one optimizer step, LEARN_BATCH rows at a time."""
    for at in range(0, len(step), LEARN_BATCH):
        loss(policy, reference, step[at : at + LEARN_BATCH], step, settings).backward()


def learn(
    loss: Callable[..., Tensor],
    policy: Any,
    reference: Any,
    rows: Sequence[Bundle],
    train: TrainConfig,
    settings: Settings,
) -> None:
    """One epoch, a plain loop."""
    optimizer = torch.optim.AdamW(policy.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)
    policy.train()
    for at in range(0, len(rows) - train.examples_per_step + 1, train.examples_per_step):
        accumulate(loss, policy, reference, rows[at : at + train.examples_per_step], settings)
        torch.nn.utils.clip_grad_norm_(policy.parameters(), train.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()


class Folder:
    """What the stages leave for each other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = Settings.model_validate_json((path / "settings.json").read_text())
        self.tokenizer = load_tokenizer(self.settings.model)
        self.work_began = 0.0

    def load(self, name: str = "") -> Any:
        """The model that a stage left, or the untuned one."""
        source = self.path / name if name else resolve(self.settings.model)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype_of(self.settings.model))
        self.work_began = time.monotonic()
        return model.eval()

    def rows(self, name: str, kind: Any) -> list[Any]:
        """Records of a CSV, whose cells are JSON, or of a JSONL."""
        with (self.path / name).open(newline="") as file:
            if name.endswith(".csv"):
                return [
                    from_row(kind, {key: json.loads(cell) for key, cell in row.items()}) for row in csv.DictReader(file)
                ]
            return [from_row(kind, json.loads(line)) for line in file]

    def write(self, name: str, records: Sequence[Any]) -> None:
        """The same the other way round."""
        with (self.path / name).open("w", newline="") as file:
            if name.endswith(".jsonl"):
                file.writelines(json.dumps(as_row(record)) + "\n" for record in records)
                return
            table = csv.writer(file)
            table.writerow(as_row(records[0]))
            table.writerows([json.dumps(value) for value in as_row(record).values()] for record in records)

    def questions(self) -> list[OpenQuestion]:
        return self.rows("questions.jsonl", OpenQuestion)

    def bundles(self, name: str) -> list[Bundle]:
        found = self.rows(name, Bundle)
        return [
            Bundle(id=row.id, tokens=tuple(map(tuple, row.tokens)), prompt_tokens=row.prompt_tokens) for row in found
        ]


def forge(at: Folder, version: int = 0) -> None:
    model = Today(at.load("attacker" if version else ""), at.tokenizer, version)
    at.write(f"forged-{version}.csv", forging.forge(model, at.questions(), 0, at.settings)[0])


def score(at: Folder) -> None:
    model = Today(at.load(), at.tokenizer)
    at.write("scores.csv", training_rows.grade(model, at.questions(), at.rows("forged-0.csv", Forgery), at.settings)[0])


def pairs(at: Folder) -> None:
    forged, scores = at.rows("forged-0.csv", Forgery), at.rows("scores.csv", Grade)
    made = training_rows.preferences(Today(None, at.tokenizer), at.questions(), forged, scores, 0, at.settings)
    at.write("pairs.jsonl", made[0])


def attacked(at: Folder) -> None:
    forged = at.rows("forged-1.csv", Forgery)
    at.write(
        "lists.jsonl",
        training_rows.attacked_lists(Today(None, at.tokenizer), at.questions(), forged, 0, at.settings)[0],
    )


def tune(at: Folder, loss: Callable[..., Tensor], rows: str, train: TrainConfig, name: str) -> None:
    policy, reference = at.load(), at.load()
    learn(loss, policy, reference, at.bundles(rows), train, at.settings)
    policy.save_pretrained(at.path / name)
    at.tokenizer.backend.save_pretrained(at.path / name)


STAGES: dict[str, Callable[[Folder], None]] = {
    "forge": forge,
    "score": score,
    "pairs": pairs,
    "dpo": lambda at: tune(at, dpo_loss, "pairs.jsonl", at.settings.attacker.train, "attacker"),
    "forge-again": lambda at: forge(at, 1),
    "lists": attacked,
    "mito": lambda at: tune(at, mito_loss, "lists.jsonl", at.settings.generator.train, "generator"),
}


def main(stage: str, folder: Path) -> None:
    """Plays the stage; prints its seconds after the models were loaded (0 where none is)."""
    at = Folder(folder)
    STAGES[stage](at)
    print(json.dumps({"work_s": time.monotonic() - at.work_began if at.work_began else 0.0}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
