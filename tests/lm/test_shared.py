import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close as close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    FalconMambaConfig,
    FalconMambaForCausalLM,
)

from ragdist.config import ModelConfig
from ragdist.errors import ModelError
from ragdist.lm.load import load_model, load_tokenizer
from ragdist.lm.shared import SharedBase
from ragdist.lm.write import ModelWriter
from tests import tiny

CAUSAL, CLASSIFIER = AutoModelForCausalLM, AutoModelForSequenceClassification


def made(kind, folder, target, *, seed=1, rank=4, **shape):
    """A folder with an adapter that changes the model, as peft saves it."""
    task = "CAUSAL_LM" if kind is CAUSAL else "SEQ_CLS"
    config = peft.LoraConfig(task_type=task, r=rank, target_modules="all-linear")
    model = peft.get_peft_model(kind.from_pretrained(folder, dtype=torch.float32, **shape), config)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name or "score" in name:
            torch.nn.init.normal_(weight, std=0.1, generator=generator)
    model.save_pretrained(target)
    return target


def peft_alone(kind, folder, adapter, **shape):
    """The same by peft itself, over weights of its own."""
    return peft.PeftModel.from_pretrained(kind.from_pretrained(folder, dtype=torch.float32, **shape), adapter).eval()


def logits(model, padded=False):
    rows = [prompt.tokens for prompt in tiny.prompts(3)]
    if not padded:
        rows = rows[:1]
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[2] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask).logits


def addresses(model):
    return {tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]}


def own_weights(model, base):
    """Numbers that a model holds beside those of the base."""
    shared = addresses(base)
    return sum(weight.numel() for weight in model.parameters() if weight.data_ptr() not in shared)


@pytest.fixture
def folder(tmp_path):
    return tiny.model_folder(tmp_path)


@pytest.fixture
def config(folder):
    return ModelConfig(source=str(folder), dtype="float32")


@pytest.fixture
def roles(folder, tmp_path):
    """Folders of a reciter, a discoverer, a scorer."""
    return (
        made(CAUSAL, folder, tmp_path / "reciter", seed=1),
        made(CAUSAL, folder, tmp_path / "discoverer", seed=2, rank=8),
        made(CLASSIFIER, folder, tmp_path / "scorer", seed=3, num_labels=1),
    )


def test_roles_give_what_peft_gives_over_weights_of_its_own(config, folder, roles):
    base = SharedBase(config)
    reciter, discoverer, scorer = base.answers(roles[0]), base.answers(str(roles[1])), base.classifier(roles[2])
    for model, adapter in ((reciter, roles[0]), (discoverer, roles[1])):
        assert torch.equal(logits(model, padded=True), logits(peft_alone(CAUSAL, folder, adapter), padded=True))
    alone = peft_alone(CLASSIFIER, folder, roles[2], num_labels=1)
    close(logits(scorer, padded=True), logits(alone, padded=True))  # theirs scores every position, ours the last
    assert logits(scorer, padded=True).shape == (3, 1)
    assert not any(model.training for model in (reciter, discoverer, scorer))


def test_roles_hold_the_very_tensors_of_the_base_and_their_adapters_alone(config, roles):
    base = SharedBase(config)
    reciter, discoverer, scorer = base.answers(roles[0]), base.answers(roles[1]), base.classifier(roles[2])
    backbone = addresses(base.model.model)
    for model in (reciter, discoverer, scorer):
        assert backbone <= addresses(model)
    # A and B of seven linear layers: in 32, out 32, 16, 16, 32 | 32, out 64, 64 | in 64, out 32; two of each
    width = 2 * ((32 + 32) + (32 + 16) + (32 + 16) + (32 + 32) + (32 + 64) + (32 + 64) + (64 + 32))
    assert own_weights(reciter, base.model) == 4 * width
    assert own_weights(discoverer, base.model) == 8 * width
    assert own_weights(scorer, base.model) == 4 * width + 32  # and the head
    assert own_weights(base.answers(config.source), base.model) == 0


def test_roles_do_not_influence_each_other_nor_the_base(config, roles):
    base = SharedBase(config)
    untouched = logits(base.model)
    first = logits(base.answers(roles[0]))
    reciter, scorer, discoverer = base.answers(roles[0]), base.classifier(roles[2]), base.answers(roles[1])
    assert torch.equal(logits(reciter), first)
    with peft.PeftModel.from_pretrained(base.answers(config.source), roles[1]).disable_adapter():
        assert torch.equal(logits(reciter), first)
    for parameter in discoverer.parameters():
        if parameter.data_ptr() not in addresses(base.model):
            parameter.data.zero_()
    assert torch.equal(logits(reciter), first) and torch.equal(logits(discoverer), untouched)
    assert torch.equal(logits(base.model), untouched) and torch.equal(logits(load_model(config)), untouched)
    assert logits(scorer).shape == (1, 1)


def test_role_of_the_base_itself_is_the_base(config, roles):
    base = SharedBase(config)
    plain = base.answers(config.source)
    base.answers(roles[0])
    assert torch.equal(logits(plain), logits(load_model(config)))


def test_role_writes_what_the_merged_model_writes(config, roles):
    tokenizer, prompts = load_tokenizer(config), tiny.prompts()
    writers = (
        ModelWriter(SharedBase(config).answers(roles[0]), tokenizer, 900),
        ModelWriter(load_model(config.model_copy(update={"source": str(roles[0])})), tokenizer, 900),
    )
    ours, merged = (list(writer.write(prompts, max_new_tokens=8)) for writer in writers)
    assert ours == merged


def test_roles_in_bfloat16_are_in_bfloat16(config, folder, roles):
    base = SharedBase(config.model_copy(update={"dtype": "bfloat16"}))
    for kind, model, adapter, shape in (
        (CAUSAL, base.answers(roles[0]), roles[0], {}),
        (CLASSIFIER, base.classifier(roles[2]), roles[2], {"num_labels": 1}),
    ):
        head = {"score.weight"} & {name for name, _ in model.named_parameters()}
        assert {name for name, weight in model.named_parameters() if weight.dtype != torch.bfloat16} == head
        whole = kind.from_pretrained(folder, dtype=torch.bfloat16, **shape)
        alone = peft.PeftModel.from_pretrained(whole, adapter, autocast_adapter_dtype=False).eval()
        close(logits(model).float(), logits(alone).float(), rtol=1e-2, atol=2e-3)
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_whole_models_are_loaded_by_themselves(config, tmp_path):
    base = SharedBase(config)
    other = tiny.model_folder(tmp_path, seed=7)
    tuned = base.answers(other)
    assert torch.equal(logits(tuned), logits(CAUSAL.from_pretrained(other)))
    assert not addresses(tuned) & addresses(base.model)
    CLASSIFIER.from_pretrained(other, num_labels=1).save_pretrained(tmp_path / "scorer")
    scorer = base.classifier(tmp_path / "scorer")
    expected = logits(CLASSIFIER.from_pretrained(tmp_path / "scorer"), padded=True)
    close(logits(scorer, padded=True), expected)


def test_classifier_of_a_whole_model_without_one_label_is_a_clear_error(config, folder, tmp_path):
    CLASSIFIER.from_pretrained(folder, num_labels=2).save_pretrained(tmp_path / "two")
    for source in (folder, tmp_path / "two"):
        with pytest.raises(ModelError, match=r"does not load: .*set model.source to what was tuned as a scorer"):
            SharedBase(config).classifier(source)


def test_adapter_of_another_base_names_both_and_the_knob(config, tmp_path):
    other = tiny.model_folder(tmp_path, seed=7)
    adapter = made(CAUSAL, other, tmp_path / "adapter")
    with pytest.raises(ModelError, match=rf"{adapter} is an adapter of '{other}', and model\.source='{config.source}'"):
        SharedBase(config).answers(adapter)


def rename_base(adapter, name):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": name}))


def test_adapter_base_is_told_by_source_folder_or_content(config, folder, roles, tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for name in (str(link), folder.name, f"{folder}/../{folder.name}"):
        rename_base(roles[0], name)
        SharedBase(config).answers(roles[0])
    SharedBase(config.model_copy(update={"source": folder.name})).answers(roles[0])
    converted = folder.rename(tmp_path / "Tiny-0123456789abcdef")
    rename_base(roles[0], "/another/home/.cache/ragdist/models/Tiny-0123456789abcdef")
    SharedBase(config.model_copy(update={"source": str(converted)})).answers(roles[0])
    rename_base(roles[0], "/another/home/.cache/ragdist/models/Tiny-0123456789abcde0")
    with pytest.raises(ModelError, match="is another model"):
        SharedBase(config.model_copy(update={"source": str(converted)})).answers(roles[0])


def test_adapter_for_another_task_is_a_clear_error(config, roles):
    base = SharedBase(config)
    with pytest.raises(ModelError, match="wanted an adapter LORA for SEQ_CLS, got LORA for CAUSAL_LM"):
        base.classifier(roles[0])
    with pytest.raises(ModelError, match="wanted an adapter LORA for CAUSAL_LM, got LORA for SEQ_CLS"):
        base.answers(roles[2])


def without(adapter, word):
    """The adapter less all weights that have this word in their names."""
    path = adapter / "adapter_model.safetensors"
    save_file({name: weight for name, weight in load_file(path).items() if word not in name}, path)


def test_adapter_with_weights_missing_or_of_another_shape_is_one_clear_error(config, folder, roles, tmp_path):
    without(roles[2], "score")
    without(roles[0], "layers.1.self_attn.q_proj.lora_B")
    two = made(CLASSIFIER, folder, tmp_path / "two", num_labels=2)
    base = SharedBase(config)
    for load, adapter, told in (
        (base.classifier, roles[2], r"does not fit .*score\.weight"),
        (base.classifier, two, "does not fit .*size mismatch for .*score"),
        (base.answers, roles[0], r"has no weights for model\.layers\.1\.self_attn\.q_proj\.lora_B"),
    ):
        with pytest.raises(ModelError, match=told) as raised:
            load(adapter)
        assert "\n" not in str(raised.value)


def test_base_that_transformers_cannot_classify_with_is_a_clear_error(roles, tmp_path):
    shape = FalconMambaConfig(vocab_size=512, hidden_size=32, num_hidden_layers=1, state_size=4)
    FalconMambaForCausalLM(shape).save_pretrained(tmp_path / "mamba")
    rename_base(roles[2], str(tmp_path / "mamba"))
    base = SharedBase(ModelConfig(source=str(tmp_path / "mamba"), dtype="float32", attention="eager"))
    with pytest.raises(ModelError, match=r"falcon_mamba\) cannot be a classifier"):
        base.classifier(roles[2])


def test_torn_adapter_is_one_clear_error(config, roles):
    (roles[0] / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="does not load") as raised:
        SharedBase(config).answers(roles[0])
    assert "\n" not in str(raised.value)


def test_roles_load_in_silence(config, roles, capfd):
    capfd.readouterr()
    base = SharedBase(config)
    base.answers(roles[0])
    base.classifier(roles[2])
    assert capfd.readouterr() == ("", "")
