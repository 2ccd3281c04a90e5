import pytest
import torch

from ragdist.errors import ConfigError
from ragdist.lm.load import load_model, load_tokenizer
from ragdist.lm.memory import enough
from ragdist.lm.write import ModelWriter
from tests import tiny, training

CARD = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 9 GiB of which 1 GiB is free. "
    "Including non-PyTorch memory, this process has 138 GiB memory in use. If reserved but unallocated memory is large"
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(CARD),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_full_memory_is_one_sentence_that_says_what_to_set(error):
    with pytest.raises(ConfigError) as said, enough("lower train.microbatch"):
        raise error
    sentence = str(said.value)
    assert "lower train.microbatch" in sentence and str(error)[:16] in sentence
    assert "\n" not in sentence and "reserved" not in sentence and "asynchronously" not in sentence


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="size mismatch"), enough("lower train.microbatch"):
        raise RuntimeError("size mismatch")


def test_writer_whose_batch_does_not_fit_names_its_size(tmp_path, monkeypatch):
    config = training.settings(tiny.model_folder(tmp_path)).model
    model = load_model(config)

    def full(**_):
        raise torch.OutOfMemoryError(CARD)

    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(ConfigError, match=r"lower evaluation\.tokens_per_batch"):
        list(ModelWriter(model, load_tokenizer(config), 512).write(tiny.prompts(2), max_new_tokens=2))
