"""An engine writes with the weights that it should have, or nothing; kept texts know who wrote them."""

import json
from itertools import chain
from pathlib import Path

import pytest
import torch

from ragdist.config import ModelConfig, Settings
from ragdist.config.loader import resolve
from ragdist.errors import ConfigError, EngineError
from ragdist.lm import engines, probe
from ragdist.lm.answerer import load_answerer
from ragdist.lm.load import load_model, load_tokenizer
from ragdist.lm.paged import PagedWriter
from ragdist.lm.read import ModelReader
from ragdist.lm.resident import Resident
from ragdist.lm.write import ModelWriter
from ragdist.local import LocalAnswerers
from ragdist.records import Question
from ragdist.storage.tables import MicrobatchTask, run_microbatch
from ragdist.tracking.run import open_run
from tests import learning, tiny

FEW = {"probe_prompts": 3, "probe_tokens": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


def settings(folder: Path, engine: str = "paged", **values) -> Settings:
    few = {"examples_per_step": 8, "microbatch": 2, "learning_rate": 1e-2, "warmup": 0, "zero_stage": 0}
    return resolve(
        {
            "model": {"source": str(folder), "dtype": "float32"},
            "attacker": {"engine": engine, "train": few},
            "evaluation": {"engine": engine},
            "engines": FEW,
        }
        | values
    )


def resident(folder: Path, **values) -> Resident:
    made = settings(folder, **values)
    return Resident(str(folder), made, made.attacker, 0)


def texts(writer, count: int = 4, **how):
    how = {"max_new_tokens": 9, **how}
    return {(text.prompt_id, text.sample): text.text for text in chain(*writer.write(tiny.prompts(count), **how))}


class Beside:
    """An engine beside the model that loads its own from what it takes up: what vllm does, by transformers' loop.

    Args:
        folder: of the first model.
        deaf: how many times it does not hear of other weights, as vLLM's reload on a CPU.
    """

    engine = "beside"

    def __init__(self, folder: Path, deaf: int = 0) -> None:
        self.folder, self.version, self.deaf, self.taken = folder, -1, deaf, []

    def take_up(self, version: int, folder: Path) -> None:
        self.taken.append((version, folder))
        self.version, self.wanted = version, folder
        self.renew()

    def renew(self) -> None:
        self.deaf -= 1
        if self.deaf < 0:
            self.folder = self.wanted
        config = ModelConfig(source=str(self.folder), dtype="float32")
        self.model = load_model(config)
        self.writer = ModelWriter(self.model, load_tokenizer(config), 4096)

    def write(self, prompts, **how):
        return self.writer.write(prompts, **how)

    def scored(self, prompts, max_new_tokens):
        found = {text.prompt_id: text.ids for text in chain(*self.write(prompts, max_new_tokens=max_new_tokens))}
        with torch.no_grad():
            return [(ids, self._said(prompt, ids)) for prompt in prompts for ids in [[*found[prompt.id]]]]

    def _said(self, prompt, ids):
        logits = self.model(torch.tensor([[*prompt.tokens, *ids]])).logits[0, len(prompt.tokens) - 1 : -1]
        return logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()

    def rest(self) -> None:
        pass

    def close(self) -> None:
        pass


class Stale(PagedWriter):
    """Goes on with the keys and values of old weights, in pages that texts with the same beginning share."""

    def _fit(self, longest):
        self._page = 32

    def _pages(self):
        return 500

    def take_up(self, version, folder):
        self._version = version

    def rest(self):
        pass


def test_probe_of_an_engine_that_writes_with_the_model_is_near_zero_and_says_so(folder):
    held = resident(folder)
    (found,) = held.open_phase()
    assert found["nats"] < 1e-5
    assert found == {"engine": "paged", "version": 0, "nats": found["nats"], "fresh": False}
    assert held.open_phase() == []  # proved already
    plain = resident(folder, engine="transformers")
    assert plain.open_phase() == []
    assert texts(held) == texts(plain)


def test_side_writes_by_paged_what_it_writes_by_transformers_round_after_round(tmp_path, folder):
    found = {}
    for engine in ("transformers", "paged"):
        held, said = resident(folder, engine=engine), []
        for version in range(3):
            proof = held.open_phase()
            said += [texts(held, samples=2, temperature=0.9), texts(held)]
            assert [one["version"] for one in proof] == [version] * (engine == "paged")
            said.append(dict(chain(*held.read(tiny.examples(4)))))
            said.append([line["loss"] for line in learning.learn(held, "sft", tmp_path / engine / str(version))])
        found[engine] = said
    assert found["paged"] == found["transformers"]
    assert found["paged"][0] != found["paged"][4]


def test_keys_and_values_of_old_weights_are_caught_and_a_fresh_engine_helps(tmp_path, folder, capsys):
    held = resident(folder)
    held._engine = held._writer = Stale(held.module, held.tokenizer, held._engines, 4096)
    held.open_phase()
    learning.learn(held, "sft", tmp_path)
    (found,) = held.open_phase()
    assert found["fresh"] and found["version"] == 1 and found["nats"] < 1e-5
    assert "a fresh engine is started" in capsys.readouterr().err
    writer = ModelWriter(load_model(settings(tmp_path / "model").model), held.tokenizer, 4096)
    assert texts(held) == texts(writer)


def test_an_engine_beside_takes_up_what_was_published(tmp_path, folder):
    held = resident(folder)
    held._engine = held._writer = Beside(folder)
    held.open_phase()
    learning.learn(held, "sft", tmp_path)
    assert held.open_phase()[0]["nats"] < 1e-4
    assert held._engine.taken == [(0, folder), (1, tmp_path / "model")]


def test_an_engine_with_old_weights_gets_one_more_chance_and_then_ends_the_run(tmp_path, folder):
    held = resident(folder)
    held._engine = held._writer = Beside(folder)
    held.open_phase()
    learning.learn(held, "sft", tmp_path)
    held._engine.deaf = 1
    assert held.open_phase()[0]["fresh"]
    held._proved, held._engine.folder, held._engine.deaf = False, folder, 2
    with pytest.raises(EngineError, match=r"beside .* version 1 .* nats .*engines.probe_tolerance.* 0.001"):
        held.open_phase()


def test_an_engine_of_another_version_writes_nothing(tmp_path, folder):
    held = resident(folder)
    held.open_phase()
    learning.learn(held, "sft", tmp_path)
    with pytest.raises(EngineError, match=r"paged holds version 0 .* version 1"):
        texts(held)


def test_work_for_another_version_is_refused_and_nothing_is_kept(tmp_path, folder):
    held = resident(folder)
    job = MicrobatchTask(lambda model: ([], {}), (), tmp_path / "rows.parquet", "rows", 1)
    with pytest.raises(EngineError, match=r"version 1 .* holds version 0"):
        run_microbatch(job, held, [])
    assert not list(tmp_path.iterdir())


def test_probe_is_the_same_for_every_version_and_of_ordinary_tokens(folder):
    tokenizer = load_tokenizer(settings(folder).model)
    asked = probe.prompts(tokenizer, 4, 7)
    assert asked == probe.prompts(tokenizer, 4, 7) != probe.prompts(tokenizer, 4, 8)
    special = {tokenizer.encode(text).ids[0] for text in tiny.SPECIAL}
    assert all(len(prompt.tokens) == probe.LENGTH and special.isdisjoint(prompt.tokens) for prompt in asked)


def test_vllm_that_is_not_installed_is_one_line_with_the_command():
    if engines.importlib.util.find_spec("vllm"):
        pytest.skip("it is installed here")
    with pytest.raises(ConfigError, match=r"generator.engine=vllm .*pip install 'ragdist.vllm.'"):
        engines.check("vllm", "generator")
    engines.check("paged", "generator")


def test_answers_by_paged_are_those_of_the_loop_and_the_figure_is_kept(tmp_path, folder):
    found = {}
    for engine in ("transformers", "paged"):
        made = settings(folder, engine, run={"folder": str(tmp_path), "name": engine})
        with open_run(made, "evaluate"), LocalAnswerers(made).open(str(folder)) as answerer:
            found[engine] = texts(answerer, 8), dict(chain(*answerer.read(tiny.examples())))
        lines = (
            [json.loads(line) for line in (tmp_path / engine / "metrics.jsonl").read_text().splitlines()]
            if (engine == "paged")
            else []
        )
    assert found["paged"] == found["transformers"]
    assert [(line["phase"], line["engine"], line["fresh"]) for line in lines] == [("probe", "paged", False)]


def test_two_models_over_one_base_write_by_paged_at_once_and_vllm_refuses_them(tmp_path, folder):
    from dataclasses import replace

    from ragdist.config import LoraConfig
    from ragdist.lm.load import add_lora

    adapted = add_lora(load_model(settings(folder).model), LoraConfig(rank=4))
    with torch.no_grad():
        for name, part in adapted.named_parameters():
            if "lora_B" in name:
                part.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    adapted.save_pretrained(tmp_path)
    prompts = [replace(prompt, model=at % 2) for at, prompt in enumerate(tiny.prompts())]
    found = {}
    for engine in ("transformers", "paged"):
        answerer = load_answerer(settings(folder, engine), [str(folder), str(tmp_path)])
        found[engine] = {text.prompt_id: text for text in chain(*answerer.write(prompts, max_new_tokens=9))}
        answerer.close()
    assert found["paged"] == found["transformers"]
    with pytest.raises(ConfigError, match=r"evaluation.engine=vllm holds one model, and 2"):
        load_answerer(settings(folder, "vllm"), [str(folder), str(tmp_path)])


def test_answers_of_another_engine_have_another_name_and_those_of_transformers_the_old_one(folder):
    from ragdist.evaluation.predictions import made_of

    def name(engine):
        made = settings(folder, engine)
        return made_of("RAFT", ["nowhere"], [], list[Question](), made)

    assert name("auto") == name("transformers") != name("paged") != name("vllm")


def test_reader_that_holds_other_weights_is_far_from_the_engine(folder, tmp_path):
    """The planted fault, without learning: two models that differ."""
    model, other = (load_model(settings(where).model) for where in (folder, tiny.model_folder(tmp_path, seed=1)))
    tokenizer = load_tokenizer(settings(folder).model)
    writer = PagedWriter(model, tokenizer, settings(folder).engines, 4096)
    found = probe.continued(writer, tokenizer, settings(folder).engines, seed=0)
    assert probe.apart(found, ModelReader(model, 4096)) < 1e-5
    assert probe.apart(found, ModelReader(other, 4096)) > 0.1
    writer.close()
