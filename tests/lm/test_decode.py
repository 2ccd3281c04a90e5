import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import DynamicLayer

from ragdist.lm.decode import Roomy, attend


def states(rows, tokens, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, tokens, 4, generator=draw), torch.randn(rows, 2, tokens, 4, generator=draw)


@pytest.mark.parametrize("room", [1, 3, 20])
def test_layer_with_room_holds_what_a_layer_of_transformers_holds(room):
    """Through a prefill, samples, texts that end, and more tokens than there was room for."""
    ours, theirs = Roomy(room), DynamicLayer()
    for layer in (ours, theirs):
        layer.update(*states(2, 5, 0))
        layer.batch_repeat_interleave(3)
        layer.update(*states(6, 1, 1))
        layer.batch_select_indices(torch.tensor([5, 1, 2, 4]))
        for seed in range(2, 6):
            layer.update(*states(4, 1, seed))
        layer.batch_select_indices(torch.tensor([0, 3]))
        layer.update(*states(2, 2, 7))
    assert ours.get_seq_length() == theirs.get_seq_length() == 12
    assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)


@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("masked", [False, True])
def test_attend_is_attention(scaling, masked):
    query, (key, value) = torch.randn(3, 6, 1, 4), states(3, 7, 0)
    mask = (torch.arange(7) >= torch.tensor([[0], [2], [6]])).view(3, 1, 1, 7) if masked else None
    ours, _ = attend(None, query, key, value, mask, scaling=scaling)
    key, value = key.repeat_interleave(3, 1), value.repeat_interleave(3, 1)
    theirs = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    torch.testing.assert_close(ours, theirs.transpose(1, 2))
