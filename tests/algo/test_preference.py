import math
from types import SimpleNamespace

import pytest
import torch

from ragdist.algo.losses import Totals
from ragdist.algo.preference import dpo, reference
from tests import tiny
from tests.algo.game import Table, answers, batch

TOTAL = Totals(tokens=1, rows=1)


def lead_of(log_ratio):
    """Two one-token texts whose log-probabilities differ by `log_ratio`."""
    chosen, rejected = (torch.tensor([[[value, math.log1p(-math.exp(value))]]]) for value in (-0.1, -0.1 - log_ratio))
    return [logits.requires_grad_() for logits in (chosen, rejected)]


@pytest.mark.parametrize(("lead", "expected"), [(0.0, 0.693147), (1.0, 0.598139), (-0.05, None)])
def test_dpo_has_the_known_losses_and_pushes_the_preferred_text_check_37(lead, expected):
    chosen, rejected = lead_of(lead)
    forward = Table(answers(chosen, [[0]]), answers(rejected, [[0]]))
    loss = dpo(forward, batch(1, reference=torch.zeros(1)), total=TOTAL, beta=0.2)
    if expected:
        assert loss.scalar.item() == pytest.approx(expected, abs=1e-6)
    loss.scalar.backward()
    assert chosen.grad[0, 0, 0] < 0 < rejected.grad[0, 0, 0]
    assert loss.metrics["margin"].item() == pytest.approx(0.2 * lead, abs=1e-6)
    assert loss.metrics["accuracy"].item() == (lead > 0)


@pytest.mark.parametrize(("lead", "expected"), [(0.0, 0.693147), (1.0, 0.598139), (-1.0, 0.798139)])
def test_dpo_measures_the_lead_against_the_reference_check_37(lead, expected):
    chosen, rejected = lead_of(0.4)
    forward = Table(answers(chosen, [[0]]), answers(rejected, [[0]]))
    loss = dpo(forward, batch(1, reference=torch.tensor([0.4 - lead])), total=TOTAL, beta=0.2)
    assert loss.scalar.item() == pytest.approx(expected, abs=1e-6)


def test_dpo_at_its_own_reference_is_log_2_check_38():
    torch.manual_seed(0)
    forward = Table(*(answers(torch.randn(3, 4, 9), [[1, 2, 3], [4], [5, 6, 7, 8]]) for _ in range(2)))
    extra = reference(forward, batch(3))
    loss = dpo(forward, batch(3, **extra), total=Totals(tokens=8, rows=3), beta=0.2)
    assert loss.scalar.item() == pytest.approx(math.log(2), abs=1e-6)
    assert not extra["reference"].requires_grad


def test_dpo_equals_that_of_trl(tmp_path):
    """The real DPOTrainer's loss on the same rows of the tiny model, with another model as reference."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    folders = [tiny.model_folder(tmp_path, seed) for seed in (0, 1)]
    model, other = (AutoModelForCausalLM.from_pretrained(folder) for folder in folders)
    rows = [
        {"prompt": f"question {n} ", "chosen": "wrong " * (n + 1), "rejected": "right indeed" + "!" * n}
        for n in range(3)
    ]
    with torch.random.fork_rng():
        trainer = DPOTrainer(
            model,
            other,
            DPOConfig(str(tmp_path / "out"), beta=0.2, use_cpu=True, report_to=[], per_device_train_batch_size=3),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folders[0]),
        )
    inputs = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model.eval(), inputs)

    def forward_of(which):
        ids, mask = inputs["input_ids"], inputs["completion_mask"].bool()
        logits = which(input_ids=ids, attention_mask=inputs["attention_mask"]).logits[:, :-1]
        slots = []
        for half in (slice(0, 3), slice(3, 6)):
            there = mask[half, 1:]
            slots.append(SimpleNamespace(logits_NV=logits[half][there], labels_BA=ids[half, 1:], mask_BA=there))
        return Table(*slots)

    extra = reference(forward_of(other), batch(3))
    ours = dpo(forward_of(model), batch(3, **extra), total=Totals(tokens=0, rows=3), beta=0.2)
    assert abs(ours.scalar.item() - math.log(2)) > 1e-3
    assert ours.scalar.item() == pytest.approx(theirs.item(), abs=1e-5)
