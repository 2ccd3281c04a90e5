import pytest
import torch
from transformers import AutoModelForSequenceClassification

from ragdist.config import LoraConfig, ModelConfig
from ragdist.errors import ModelError
from ragdist.lm.load import add_lora, load_model
from ragdist.lm.score import ModelScorer, load_classifier, load_scorer, pad, score_last
from tests import tiny
from tests.training import pairs, render

PAIRS = [pair for pair, _ in pairs(24)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def config(source):
    return ModelConfig(source=str(source), dtype="float32")


@pytest.fixture(scope="module")
def model(config):
    return load_classifier(config, seed=3)


def save_scorer(config, folder, task="SEQ_CLS"):
    """An adapter whose weights are not zero, beside its base."""
    base = load_classifier(config) if task == "SEQ_CLS" else load_model(config, training=True)
    tuned = add_lora(base, LoraConfig(rank=2), seed=1, task=task)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.05)
    tuned.save_pretrained(folder)
    return tuned.eval()


def test_score_equals_transformers_on_rows_that_do_not_end_like_padding(model, config, tmp_path):
    model.save_pretrained(tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    rows = [render(pair) for pair in PAIRS[:5]]
    ids = pad(rows)["input_ids"]
    ids[pad(rows)["attention_mask"] == 0] = theirs.config.pad_token_id
    with torch.inference_mode():
        torch.testing.assert_close(model(**pad(rows)).logits, theirs(input_ids=ids).logits)


def test_score_is_read_at_the_last_token_even_if_it_is_the_pad_token(model):
    """<|im_end|> pads, ends turns, and here ends a row: transformers would look at the token before."""
    row = [*render(PAIRS[0]), tiny.tokenizer().end]
    with torch.inference_mode():
        hidden = model.model(torch.tensor([row])).last_hidden_state[0, -1]
        by_hand = hidden @ model.score.weight[0]
        found = model(**pad([row, render(PAIRS[6])])).logits[0, 0]
    assert found.item() == pytest.approx(by_hand.item(), abs=1e-5)


def test_score_ignores_what_fills_the_padding(model):
    shown = pad([render(pair) for pair in PAIRS[:6]])
    filled = shown | {"input_ids": torch.where(shown["attention_mask"] == 1, shown["input_ids"], 300)}
    with torch.inference_mode():
        assert torch.equal(model(**shown).logits, model(**filled).logits)
        assert torch.equal(score_last(model.model, model.score, **shown), model(**shown).logits)


def test_confidences_stand_in_the_order_asked_whatever_shares_a_batch(model):
    alone = [ModelScorer(model, render, 1).score([pair])[0] for pair in PAIRS]
    assert len({round(confidence, 4) for confidence in alone}) > 12
    assert ModelScorer(model, render, 100_000).score(PAIRS) == pytest.approx(alone, rel=1e-5)
    assert ModelScorer(model, render, 300).score(PAIRS[::-1]) == pytest.approx(alone[::-1], rel=1e-5)


def test_confidences_of_repeated_pairs_in_another_order_have_the_same_bits(model):
    scorer = ModelScorer(model, render, 300)
    asked = PAIRS[:7] + PAIRS[3:5]
    assert scorer.score(asked[::-1]) == scorer.score(asked)[::-1]
    assert scorer.score([]) == []


def test_confidence_is_sigmoid_of_the_score_and_inside_0_and_1_however_sure_check_57(config):
    sure = load_classifier(config)
    with torch.inference_mode():
        score = sure(**pad([render(PAIRS[0])])).logits.item()
        assert ModelScorer(sure, render, 300).score(PAIRS[:1]) == [pytest.approx(1 / (1 + 2.718281828459045**-score))]
        sure.score.weight.mul_(1e4)
    confidences = ModelScorer(sure, render, 300).score(PAIRS)
    assert all(0 < confidence < 1 for confidence in confidences)
    assert min(confidences) < 1e-30 and max(confidences) > 0.9999999


def test_head_is_named_by_the_seed_and_takes_no_draw_from_the_global_generator(config, model):
    before = torch.get_rng_state()
    assert torch.equal(load_classifier(config, seed=3).score.weight, model.score.weight)
    assert not torch.equal(load_classifier(config, seed=4).score.weight, model.score.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_adapter_is_loaded_over_its_base_with_its_head(config, tmp_path):
    tuned = save_scorer(config, tmp_path)
    rows = pad([render(pair) for pair in PAIRS[:3]])
    with torch.inference_mode():
        torch.testing.assert_close(load_scorer(config, tmp_path)(**rows).logits, tuned(**rows).logits)
        assert not torch.allclose(load_classifier(config)(**rows).logits, tuned(**rows).logits, atol=1e-3)


def test_bfloat16_scorer_keeps_its_head_in_float32(config, tmp_path):
    save_scorer(config, tmp_path)
    loaded = load_scorer(config.model_copy(update={"dtype": "bfloat16"}), tmp_path)
    assert loaded.model.embed_tokens.weight.dtype == torch.bfloat16
    assert loaded(**pad([render(PAIRS[0])])).logits.dtype == torch.float32


def test_adapter_of_another_base_is_refused_and_both_are_named(config, source, tmp_path):
    save_scorer(config, tmp_path / "adapter")
    other = tiny.model_folder(tmp_path, seed=1)
    with pytest.raises(ModelError) as raised:
        load_scorer(config.model_copy(update={"source": str(other)}), tmp_path / "adapter")
    assert str(source) in str(raised.value) and str(other) in str(raised.value)


def test_base_by_another_path_is_the_same_base(config, source, tmp_path):
    save_scorer(config, tmp_path / "adapter")
    (tmp_path / "link").symlink_to(source)
    there, linked = (
        load_scorer(config.model_copy(update={"source": str(path)}), tmp_path / "adapter")
        for path in (source, tmp_path / "link")
    )
    assert torch.equal(there.score.weight, linked.score.weight)


def test_what_is_no_scorer_is_refused(config, source, tmp_path):
    with pytest.raises(ModelError, match=r"no weights of score\.weight; .* tuned as a scorer"):
        load_scorer(config, source)
    save_scorer(config, tmp_path / "answers", task="CAUSAL_LM")
    with pytest.raises(ModelError, match="adapter for CAUSAL_LM, without a score head"):
        load_scorer(config, tmp_path / "answers")
    with pytest.raises(ModelError, match="adapter alone"):
        load_classifier(config.model_copy(update={"source": str(tmp_path / "answers")}))


def test_pickled_scorer_is_refused(config, tmp_path):
    tuned = save_scorer(config, tmp_path)
    torch.save(tuned.state_dict(), tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"adapter_model\.bin, which may run code"):
        load_scorer(config, tmp_path)


def test_model_whose_head_is_no_linear_layer_is_refused(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=512, **shape)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no linear layer named score .* duet\.arbiters"):
        load_classifier(ModelConfig(source=str(tmp_path), dtype="float32", max_tokens=512))
