"""A model whose output head is its input embedding: what is saved is what was trained."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from ragdist import export
from ragdist.config import LoraConfig, ModelConfig
from ragdist.errors import ConfigError
from ragdist.lm.load import add_lora, load_model
from ragdist.lm.save import _merge
from ragdist.lm.shared import SharedBase
from ragdist.lm.tune import tune
from tests import learning, tiny
from tests.training import settings, write_rows

ASKED = torch.arange(5, 45)[None]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
TARGETS = {
    "head": ["q_proj", "lm_head"],
    "embedding": ["q_proj", "embed_tokens"],
    "both": ["embed_tokens", "lm_head"],
    "neither": ["q_proj"],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=ASKED).logits


def loaded(folder):
    return load_model(ModelConfig(source=str(folder), dtype="float32"))


class Trained(TrainerCallback):
    """Keeps the logits of the model as it was trained, before anything is saved."""

    def on_train_end(self, args, state, control, model=None, **_):
        self.logits = logits(model).clone()


def tuned(model, examples, folder, **train):
    """The folder of a tuned model, and what the model said before it was saved."""
    spy = Trained()
    folder.mkdir()
    return tune(examples, folder, settings(model, learning_rate=1e-2, **train), callbacks=[spy]), spy.logits


def close(one, other):
    torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)


def adapted(model, targets):
    """The model with adapters that matter."""
    shape = LoraConfig(rank=4, alpha=8, targets=tuple(TARGETS[targets]))
    trained = add_lora(load_model(ModelConfig(source=str(model), dtype="float32"), training=True), shape)
    torch.manual_seed(1)
    for name, weight in trained.named_parameters():
        if "lora_" in name:
            weight.data = 0.1 * torch.randn_like(weight)
    return trained


@pytest.mark.parametrize("targets", TARGETS)
def test_merged_adapter_on_a_tied_weight_is_saved_as_trained(model, tmp_path, targets):
    """T23: the head and the embedding are two weights from where one of them changed."""
    trained, out = adapted(model, targets), tmp_path / "model"
    trained.save_pretrained(out)
    _merge(out, out, lambda: load_model(settings(model).model, training=True), settings(model).model)
    assert not torch.allclose(logits(trained), logits(loaded(model)), atol=0.1)
    close(logits(AutoModelForCausalLM.from_pretrained(out)), logits(trained))
    apart = targets != "neither"
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is not apart
    assert (HEAD in load_file(out / "model.safetensors")) is apart


@pytest.mark.parametrize("targets", TARGETS)
def test_adapter_alone_on_a_tied_weight_is_what_was_trained_wherever_it_is_read(model, tmp_path, targets):
    """T23: merged when it is loaded, beside a shared base, by peft itself, and exported."""
    out = tmp_path / "adapter"
    trained = adapted(model, targets)
    trained.save_pretrained(out)
    close(logits(loaded(out)), logits(trained))
    base = SharedBase(ModelConfig(source=str(model), dtype="float32"))
    before = logits(base.answers(model))
    close(logits(base.answers(out)), logits(trained))
    assert torch.equal(logits(base.answers(model)), before)
    close(logits(peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), out)), logits(trained))
    export.export_model(str(out), tmp_path / "merged")
    close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), logits(trained))


def test_adapter_on_the_embedding_is_tuned_and_saved_as_trained(model, examples, tmp_path):
    """T23: the whole way, on DeepSpeed."""
    out, trained = tuned(model, examples, tmp_path / "run", epochs=1, lora={"rank": 4, "targets": ["embed_tokens"]})
    assert not torch.allclose(trained, logits(loaded(model)), atol=0.01)
    close(logits(loaded(out)), trained)


def test_adapter_on_the_head_is_refused_where_it_would_not_be_trained(model, examples, tmp_path):
    """T23: TRL computes its loss from the head's own weight."""
    with pytest.raises(ConfigError, match=r"train\.lora\.targets=\['q_proj', 'lm_head'\]"):
        tuned(model, examples, tmp_path / "run", lora={"rank": 4, "targets": TARGETS["head"]})


@pytest.mark.parametrize("whole", ["lm_head", "embed_tokens"])
def test_adapter_with_a_whole_copy_of_a_tied_weight_is_merged_as_trained(model, tmp_path, whole):
    """T23: `modules_to_save` of an adapter that another trainer wrote."""
    shape = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], modules_to_save=[whole])
    trained = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), shape)
    torch.manual_seed(0)
    for weight in trained.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)
    trained.save_pretrained(tmp_path / "adapter")
    close(logits(loaded(tmp_path / "adapter")), logits(trained))
    export.export_model(str(tmp_path / "adapter"), tmp_path / "merged")
    close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), logits(trained))


@pytest.mark.parametrize(
    "how", [{"zero_stage": 0}, {"zero_stage": 2, "offload": "optimizer"}, {"zero_stage": 3, "offload": "all"}]
)
def test_tied_weights_tuned_in_full_stay_one(model, examples, tmp_path, how):
    """T23, U13: saved once, at every stage of ZeRO, and tied when they are read again."""
    out, trained = tuned(model, examples, tmp_path / "run", epochs=0.5, **how)
    weights = load_file(out / "model.safetensors")
    assert EMBEDDING in weights and HEAD not in weights
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"]
    close(logits(loaded(out)), trained)


def test_a_side_of_atm_saves_tied_weights_once(model, tmp_path):
    """T23: and what it saves is what it holds."""
    held = learning.resident(model, learning.settings(model))
    learning.learn(held, "mito", tmp_path / "phase", 8)
    out = tmp_path / "phase" / "model"
    assert HEAD not in load_file(out / "model.safetensors")
    close(logits(loaded(out)), logits(held.module))
