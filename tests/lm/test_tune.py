import json
import math
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ragdist.errors import ConfigError, DataError, Stopped, TrainError
from ragdist.lm import checkpoints
from ragdist.lm.checkpoints import MODEL
from ragdist.lm.rows import lay_out
from ragdist.lm.tune import tune
from tests import tiny
from tests.training import Spy, StopAt, losses, noted, rows, settings, weights_hash, write_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "run"
    made.mkdir()
    return made


def mean_nll(model, row_numbers):
    """Nats per target token, each row alone, by log_softmax: no padding, no trainer."""
    total = tokens = 0
    for row in (rows(24)[number] for number in row_numbers):
        log_p = model(torch.tensor([row.tokens])).logits[0].log_softmax(-1)
        total -= sum(log_p[at - 1, row.tokens[at]] for at in range(row.prompt_tokens, len(row.tokens)))
        tokens += len(row.tokens) - row.prompt_tokens
    return total / tokens


def test_first_loss_is_the_hand_computed_mean_over_target_tokens_check_20_21_22(model, examples, folder):
    made = settings(model, epochs=0.5)
    tune(examples, folder, made)
    first = lay_out(examples, made).order[:8]
    by_hand = mean_nll(AutoModelForCausalLM.from_pretrained(model), first).item()
    assert losses(folder)[0] == pytest.approx(by_hand, abs=1e-5)


def test_loss_and_gradient_ignore_how_a_step_is_cut_check_24(model, examples, tmp_path):
    found = []
    for microbatch in (1, 2, 8):
        run = tmp_path / str(microbatch)
        run.mkdir()
        tune(examples, run, settings(model, epochs=0.5, microbatch=microbatch))
        found.append(noted(run)[0])
    for other in found[1:]:
        assert other["loss"] == pytest.approx(found[0]["loss"], abs=1e-6)
        assert other["grad_norm"] == pytest.approx(found[0]["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_stopped_run_goes_on_and_ends_with_the_same_bits(model, examples, tmp_path, stage):
    offload = "optimizer" if stage else "none"  # else one worker shards nothing at any stage
    made = settings(model, zero_stage=stage, offload=offload, lora={"rank": 4, "dropout": 0.5}, checkpoint_every=4)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for run in (whole, halves):
        run.mkdir()
    undisturbed = tune(examples, whole, made, callbacks=[Spy(whole / "seen")])
    with pytest.raises(Stopped, match="after step 3 of 6"):
        tune(examples, halves, made, callbacks=[StopAt(halves, 3), Spy(halves / "seen")])
    assert not (halves / MODEL).exists()
    resumed = tune(examples, halves, made, callbacks=[Spy(halves / "seen")])
    assert weights_hash(resumed) == weights_hash(undisturbed)
    assert losses(halves) == losses(whole)
    assert [line["step"] for line in noted(halves)] == [1, 2, 3, 4, 5, 6]


def test_rows_of_every_step_are_those_of_the_plan_also_after_a_stop_check_72(model, examples, folder):
    made = settings(model)
    spy = Spy(folder / "seen")
    with pytest.raises(Stopped):
        tune(examples, folder, made, callbacks=[StopAt(folder, 2), spy])
    before = spy.seen()
    tune(examples, folder, made, callbacks=[spy])
    after = spy.seen()[len(before) :]
    order = lay_out(examples, made).order
    microbatches = [order[at : at + 2] for at in range(0, len(order), 2)]
    assert before[:8] == microbatches[:8]  # the loader reads one microbatch ahead
    assert after[-16:] == microbatches[8:]


def test_finished_run_returns_at_once(model, examples, folder):
    made = settings(model, epochs=0.5)
    done = tune(examples, folder, made)
    (folder / "metrics.jsonl").unlink()
    assert tune(examples, folder, made) == done == folder / MODEL
    assert not (folder / "metrics.jsonl").exists()


def test_half_written_checkpoint_is_removed_and_only_the_newest_are_kept(model, examples, folder):
    """U13: what a run keeps is bounded by `train.keep_checkpoints`."""
    half = folder / "checkpoints" / "checkpoint-5"
    half.mkdir(parents=True)
    (half / "trainer_state.json").write_text('{"global_step": 5')
    tune(examples, folder, settings(model, checkpoint_every=2, keep_checkpoints=1))
    assert len(noted(folder)) == 6
    assert [found.name for found in (folder / "checkpoints").iterdir()] == ["checkpoint-6"]
    assert checkpoints.newest(folder / "checkpoints") == folder / "checkpoints" / "checkpoint-6"


def test_tuned_folder_holds_a_plain_model_in_its_dtype_with_tokenizer_and_card(model, examples, folder):
    made = settings(model, epochs=0.5)
    out = tune(examples, folder, made.model_copy(update={"model": made.model.model_copy(update={"dtype": "bfloat16"})}))
    loaded = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert loaded.dtype == torch.bfloat16
    assert (out / "generation_config.json").exists()
    assert AutoTokenizer.from_pretrained(out).chat_template == tiny.TEMPLATE
    card = (out / "README.md").read_text()
    assert "24 rows" in card and "2 steps of 8 rows" in card and "torch" in card
    assert not list(out.glob("*.bin"))


def test_adapter_alone_and_merged_answer_alike(model, examples, tmp_path):
    from peft import PeftModel

    asked = torch.tensor([rows(1)[0].tokens])
    answers = {}
    for merge in (True, False):
        run = tmp_path / str(merge)
        run.mkdir()
        out = tune(examples, run, settings(model, lora={"rank": 4, "merge": merge}, learning_rate=1e-2))
        base = AutoModelForCausalLM.from_pretrained(out if merge else model)
        tuned = base if merge else PeftModel.from_pretrained(base, out)
        assert (out / "adapter_model.safetensors").exists() is not merge
        answers[merge] = tuned.eval()(asked).logits
    untuned = AutoModelForCausalLM.from_pretrained(model)(asked).logits
    torch.testing.assert_close(answers[True], answers[False], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(answers[True], untuned, atol=1e-2)


def test_training_lowers_the_loss_and_counts_useful_tokens(model, examples, folder):
    made = settings(model, epochs=6, learning_rate=3e-3, gradient_checkpointing=True)
    out = tune(examples, folder, made)
    lines = noted(folder)
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    plan = lay_out(examples, made)
    lengths = [len(row.tokens) for row in rows(24)]
    assert [step.useful for step in plan.steps] == [
        sum(lengths[row] for row in plan.order[at : at + 8]) for at in range(0, 144, 8)
    ]
    assert lines[3]["padded_share"] == pytest.approx(1 - plan.steps[3].useful / plan.steps[3].padded, abs=1e-4)
    assert lines[3]["busy_share"] == 1 and lines[3]["rank_tokens_per_s"] == lines[3]["useful_tokens_per_s"]
    assert lines[3]["epoch"] == pytest.approx(4 / 3, abs=1e-3)
    trained = mean_nll(AutoModelForCausalLM.from_pretrained(out), range(24))
    assert trained < 0.6 * lines[0]["loss"]


def test_tune_prints_nothing(model, examples, folder, capfd):
    tune(examples, folder, settings(model, epochs=0.5))
    assert capfd.readouterr() == ("", "")


def test_loss_that_is_not_a_number_ends_the_run(model, examples, folder):
    with pytest.raises(TrainError, match=r"loss is nan at step \d; lower train\.learning_rate"):
        tune(examples, folder, settings(model, learning_rate=1e38))
    assert not (folder / MODEL).exists()


@pytest.mark.parametrize(
    ("train", "dtype", "named"),
    [
        ({"zero_stage": 0}, "bfloat16", "train.zero_stage=0 in bfloat16"),
        ({"epochs": 0.01}, "float32", "24 training rows and train.epochs=0.01 give no row"),
    ],
)
def test_settings_that_contradict_name_the_knob(model, examples, folder, train, dtype, named):
    made = settings(model, **{"epochs": 1, **train})
    with pytest.raises(ConfigError, match=named):
        tune(examples, folder, made.model_copy(update={"model": made.model.model_copy(update={"dtype": dtype})}))


def test_row_without_a_target_is_named(model, examples, folder, tmp_path):
    lines = examples.read_text().splitlines()
    bad = json.loads(lines[3])
    bad["prompt_tokens"] = len(bad["tokens"])
    broken = tmp_path / "broken.jsonl"
    broken.write_text("\n".join([*lines[:3], json.dumps(bad), *lines[4:]]) + "\n")
    with pytest.raises(DataError, match="row 'row-3'"):
        tune(broken, folder, settings(model))


def test_the_noted_norm_is_that_of_the_whole_gradient_before_clipping(model, examples, folder):
    made = settings(model, epochs=0.5, zero_stage=2, gradient_clip=0.01)
    tune(examples, folder, made)
    plain = AutoModelForCausalLM.from_pretrained(model)
    mean_nll(plain, lay_out(examples, made).order[:8]).backward()
    norm = torch.cat([part.grad.flatten() for part in plain.parameters()]).norm().item()
    assert norm > 0.01
    assert noted(folder)[0]["grad_norm"] == pytest.approx(norm, rel=1e-4)


def stepped(model, steps, made):
    """The weights after these steps of rows, by autograd over whole rows and torch's AdamW; the first learns at 0."""
    by_hand = AutoModelForCausalLM.from_pretrained(model)
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.0, weight_decay=0.0)
    norms = []
    for numbers in steps:
        optimizer.zero_grad()
        mean_nll(by_hand, numbers).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(by_hand.parameters(), made.train.gradient_clip).item())
        optimizer.step()
        optimizer.param_groups[0]["lr"] = made.train.learning_rate
    return by_hand, norms


@pytest.mark.parametrize(
    ("rows_left", "microbatch", "how"),
    [
        (1, 1, {"zero_stage": 0}),
        (3, 2, {"zero_stage": 0}),
        (3, 8, {"zero_stage": 2, "offload": "optimizer"}),
        (5, 2, {"zero_stage": 3, "offload": "optimizer"}),
    ],
)
def test_last_step_that_is_not_full_is_the_step_of_its_rows_alone(model, tmp_path, rows_left, microbatch, how):
    """T2: loss, gradient and weights are those of one batch of the rows that are left, divided by their own tokens."""
    made = settings(model, epochs=1, microbatch=microbatch, warmup=0.5, schedule="constant_with_warmup", **how)
    (tmp_path / "run").mkdir()
    examples = write_rows(tmp_path / "rows.jsonl", 8 + rows_left)
    spy = Spy(tmp_path / "seen")
    out = tune(examples, tmp_path / "run", made, callbacks=[spy])
    real = [row for microbatch in spy.seen() for row in microbatch if row is not None]
    assert sorted(real) == list(range(8 + rows_left))
    by_hand, norms = stepped(model, [real[:8], real[8:]], made)
    assert [line["grad_norm"] for line in noted(tmp_path / "run")] == pytest.approx(norms, rel=1e-4)
    untuned = AutoModelForCausalLM.from_pretrained(model)
    assert losses(tmp_path / "run")[1] == pytest.approx(mean_nll(untuned, real[8:]).item(), abs=1e-5)
    tuned = dict(AutoModelForCausalLM.from_pretrained(out).named_parameters())
    for name, weight in by_hand.named_parameters():
        torch.testing.assert_close(tuned[name], weight, atol=1e-5, rtol=1e-4)
    assert f"{8 + rows_left} rows" in (out / "README.md").read_text()


def test_run_stopped_before_a_last_step_that_is_not_full_ends_with_the_same_bits(model, tmp_path):
    """T2: as with full steps."""
    examples = write_rows(tmp_path / "rows.jsonl", 11)
    made = settings(model, lora={"rank": 4, "dropout": 0.5})
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for run in (whole, halves):
        run.mkdir()
    undisturbed = tune(examples, whole, made)
    with pytest.raises(Stopped, match="after step 2 of 3"):
        tune(examples, halves, made, callbacks=[StopAt(halves, 2)])
    assert weights_hash(tune(examples, halves, made)) == weights_hash(undisturbed)
    assert losses(halves) == losses(whole)


def test_useful_tokens_of_a_last_step_are_those_of_its_rows(model, tmp_path):
    made = settings(model, epochs=1, microbatch=4)
    plan = lay_out(write_rows(tmp_path / "rows.jsonl", 9), made)
    last = plan.order[8]
    lengths = [len(row.tokens) for row in rows(9)]
    assert plan.steps[1].useful == lengths[last] and plan.rows == 9
    assert plan.steps[1].padded == 4 * lengths[last] + 4 * 2  # a microbatch of that row, and one of blank rows


def test_offloaded_optimizer_gives_the_same_losses(model, examples, tmp_path):
    found = []
    for stage, offload in ((2, "none"), (2, "optimizer"), (3, "all")):
        run = tmp_path / f"{stage}{offload}"
        run.mkdir()
        tune(examples, run, settings(model, zero_stage=stage, offload=offload))
        found.append(losses(run))
        shutil.rmtree(run / "checkpoints")
    assert found[1] == pytest.approx(found[0], abs=1e-4)
    assert found[2] == pytest.approx(found[0], abs=1e-4)
    assert all(math.isfinite(loss) for loss in found[2])


def test_rare_logging_still_notes_the_first_step(model, examples, folder):
    out = tune(examples, folder, settings(model, log_every=100))
    assert [line["step"] for line in noted(folder)] == [1]
    assert "6 steps of 8 rows" in (out / "README.md").read_text()


def test_passes_cut_by_tokens_take_the_steps_of_microbatches_and_go_on_after_a_stop(model, examples, tmp_path):
    """Steps of nine rows, the last of six; passes of other sizes, and blank ones where a step needs fewer."""
    whole, halves, plain = (tmp_path / name for name in ("whole", "halves", "plain"))
    for run in (whole, halves, plain):
        run.mkdir()
    same = {"examples_per_step": 9, "epochs": 1, "lora": {"rank": 4}}
    by_tokens = settings(model, tokens_per_pass=500, **same)
    undisturbed = tune(examples, whole, by_tokens)
    with pytest.raises(Stopped, match="after step 2 of 3"):
        tune(examples, halves, by_tokens, callbacks=[StopAt(halves, 2)])
    assert weights_hash(tune(examples, halves, by_tokens)) == weights_hash(undisturbed)
    tune(examples, plain, settings(model, microbatch=3, **same))
    assert losses(whole)[0] == pytest.approx(losses(plain)[0], abs=1e-6)
    assert losses(whole) == pytest.approx(losses(plain), abs=1e-4)
    assert noted(whole)[0]["grad_norm"] == pytest.approx(noted(plain)[0]["grad_norm"], rel=1e-5)
    plan = lay_out(examples, by_tokens)
    lengths = [*(len(row.tokens) for row in rows(24)), 2]
    cut = [[lengths[plan.order[place]] for place in places] for places in plan.batches]
    assert all(len(one) == 1 or max(one) * len(one) <= 500 for one in cut) and [2] in cut
    assert len({len(one) for one in cut}) > 1 and sorted(row for row in plan.order if row < 24) == [*range(24)]
