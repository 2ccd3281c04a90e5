"""Adapters that learn over many phases: as plain peft does it, alone or two over one base, and on two ranks."""

import pytest
import torch
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM

from ragdist.errors import ConfigError, ModelError
from ragdist.lm import checkpoints
from ragdist.lm.learn import lay_out
from ragdist.lm.residents import SharedResidents
from ragdist.storage.phases import SPEED
from tests import learning, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


def logprob(model, tokens, start):
    """Of the answer, in nats."""
    ids = torch.tensor([tokens])
    return model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1).gather(1, ids[0, start:, None]).sum()


def steps_by_hand(model, loss, train, rows):
    """The losses of a phase by plain peft and torch, a row at a time."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    adamw = torch.optim.AdamW(weights, lr=train.learning_rate, weight_decay=train.weight_decay)
    both = [[(tokens, start) for tokens, start in zip(row.tokens, row.prompt_tokens, strict=True)] for row in rows]
    with torch.no_grad():
        before = [logprob(model, *pair[0]) - logprob(model, *pair[1]) for pair in both]
    said = []
    for step in lay_out(rows, train, 0):
        chosen = [row for hand in step for microbatch in hand for row in microbatch]
        answers = sum(len(both[row][0][0]) - both[row][0][1] for row in chosen)
        total = torch.zeros(())
        for row in chosen:
            if loss == "sft":
                total = total - logprob(model, *both[row][0]) / answers
            else:
                gap = logprob(model, *both[row][0]) - logprob(model, *both[row][1]) - before[row]
                total = total - logsigmoid(0.2 * gap) / len(chosen)
        adamw.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(weights, train.gradient_clip)
        adamw.step()
        said.append(total.item())
    return said


@pytest.mark.parametrize("loss", ["sft", "dpo"])
def test_two_phases_are_those_of_plain_peft(tmp_path, folder, loss):
    """The second begins from the first's adapter, with a fresh optimizer and, in DPO, a reference of its own."""
    from peft import PeftModel

    made = learning.adapted(folder, "separate", schedule="constant_with_warmup", weight_decay=0.1)
    held = learning.resident(folder, made)
    held.save(tmp_path / "fresh")
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    peft = PeftModel.from_pretrained(base, str(tmp_path / "fresh/model"), is_trainable=True)
    for number in (1, 2):
        said = [line["loss"] for line in learning.learn(held, loss, tmp_path / f"{number}", 6)]
        rows = learning.rows(6)
        assert len(said) == 2 and said == pytest.approx(steps_by_hand(peft, loss, made.attacker.train, rows), abs=1e-5)
    peft.save_pretrained(tmp_path / "peft")
    found, wanted = learning.weights(tmp_path / "2/model"), learning.weights(tmp_path / "peft")
    assert found.keys() == wanted.keys() and all(".lora_" in name for name in found)
    assert all(torch.allclose(found[name], wanted[name], atol=1e-4) for name in found)
    fresh = learning.weights(tmp_path / "fresh/model")
    assert not any(torch.allclose(found[name], fresh[name], atol=1e-3) for name in found)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, folder):
    """What one process says and writes, in each layout."""
    root = tmp_path_factory.mktemp("alone")
    return root, {
        layout: learning.play(learning.adapted(folder, layout, zero_stage=0), folder, root / layout)
        for layout in ("separate", "shared_base")
    }


def without_seconds(said):
    """Metrics without how fast it was."""
    steps = {name: lines for name, lines in said.items() if name.startswith(("attacker", "generator"))}
    return said | {name: [{k: v for k, v in line.items() if k not in SPEED} for line in steps[name]] for name in steps}


def test_two_over_one_base_are_two_apart_to_the_bit(alone):
    root, said = alone
    assert without_seconds(said["shared_base"]) == without_seconds(said["separate"])
    for phase in ("0/attacker", "0/generator", "1/attacker", "1/generator", "on", "fresh"):
        sums = {learning.checksum(root / layout / phase / "model") for layout in said}
        assert len(sums) == 1, phase
    texts = [said["separate"][name][0] for name in ("before", "between-0", "after")]
    read = [said["separate"][name][1] for name in ("before", "between-0", "after")]
    assert texts[0] != texts[1] != texts[2] and read[0] == read[1] != read[2]  # the attacker writes, G reads


def test_adapter_that_learned_goes_on_like_one_that_was_loaded(alone):
    root, said = alone
    assert learning.checksum(root / "separate/on/model") == learning.checksum(root / "separate/fresh/model")
    assert said["separate"]["attacker-1"][0]["loss"] == pytest.approx(0.693147, abs=1e-6)  # a reference of its own


def test_one_base_is_held_once(tmp_path, folder):
    made = learning.adapted(folder, "shared_base")
    both = SharedResidents((str(folder), str(folder)), made, made.attacker, (0, 0))
    first, second = (dict(role.module.named_parameters()) for role in both.roles)
    own = {name for name in first if ".lora_" in name}
    assert all((first[name] is second[name]) == (name not in own) for name in first) and own
    assert all(first[name].requires_grad == (name in own) for name in first)


def test_checkpoint_and_model_hold_the_adapter_alone(tmp_path, folder):
    held = learning.resident(folder, learning.adapted(folder, "separate", epochs=2))
    function, prepare = learning.LOSSES["dpo"]
    held.begin(function, learning.rows(6), prepare, tmp_path)
    held.steps(1)
    (kept,) = (torch.load(file) for file in checkpoints.complete(tmp_path / "checkpoints")[0].rglob("*.pt"))
    adapter = {name: weight for name, weight in held.engine.module.named_parameters() if weight.requires_grad}
    assert kept["module"].keys() == adapter.keys() and len(kept["optimizer"]["state"]) == len(adapter)
    model = held.finish()
    assert not (model / "model.safetensors").exists() and not (model / "README.md").exists()
    assert sum(map(torch.numel, learning.weights(model).values())) == sum(map(torch.numel, adapter.values()))


def test_an_adapter_of_another_shape_or_base_is_refused(tmp_path, folder):
    other = tiny.model_folder(tmp_path, seed=1)
    held = learning.resident(other, learning.adapted(other, "separate"))
    (tmp_path / "made").mkdir()
    adapter = held.save(tmp_path / "made")
    wider = learning.adapted(other, "separate", lora={"rank": 8})
    with pytest.raises(
        ConfigError, match=r"of rank 8 and alpha 32, got LORA for CAUSAL_LM of rank 4 and alpha 32; set"
    ):
        learning.resident(adapter, wider)
    with pytest.raises(ModelError, match="is another model"):
        learning.resident(adapter, learning.adapted(folder, "separate"))
    made = learning.adapted(folder, "shared_base").unchecked("generator.source", str(other))
    with pytest.raises(
        ConfigError, match=r"shared_base: the attacker's base is .*tiny-0' and the generator's .*tiny-1'"
    ):
        SharedResidents((str(folder), str(other)), made, made.attacker, (0, 0))


def test_an_adapter_is_a_sides_first_model(tmp_path, folder):
    """As `train.lora.merge=false` leaves one."""
    (tmp_path / "made").mkdir()
    adapter = learning.resident(folder, learning.adapted(folder, "separate")).save(tmp_path / "made")
    made = learning.adapted(folder, "shared_base").unchecked("generator.source", str(adapter))
    both = SharedResidents((str(folder), str(adapter)), made, made.attacker, (0, 0))
    assert both.roles[0].module.get_input_embeddings().weight is both.roles[1].module.get_input_embeddings().weight
