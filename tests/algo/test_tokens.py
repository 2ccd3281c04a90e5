import pytest
import torch

from ragdist.algo.tokens import IGNORED, answer_logprobs, predicting


def rows(seed=0):
    """Two rows of 9 and 6 tokens with answers of 3 and 2, random logits over 11 tokens, right-padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 11, (2, 9), generator=generator)
    labels = torch.full((2, 9), IGNORED)
    labels[0, 6:9], labels[1, 4:6] = ids[0, 6:9], ids[1, 4:6]
    return torch.randn(2, 9, 11, generator=generator), labels


def read(logits, labels):
    kept = predicting(labels)
    logprobs, mask = answer_logprobs(logits[:, kept], kept, labels)
    return [row[which].tolist() for row, which in zip(logprobs, mask, strict=True)]


def test_answer_logprobs_equal_a_shifted_log_softmax():
    logits, labels = rows()
    whole = logits.log_softmax(-1)
    expected = [
        [whole[row, at - 1, labels[row, at]].item() for at in range(9) if labels[row, at] != IGNORED] for row in (0, 1)
    ]
    assert [len(row) for row in expected] == [3, 2]
    for got, wanted in zip(read(logits, labels), expected, strict=True):
        assert got == pytest.approx(wanted, abs=1e-6)


def test_answer_logprobs_of_a_hand_worked_case_check_21():
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.9, 0.05, 0.05]]).log().unsqueeze(0)
    labels = torch.tensor([[IGNORED, 0, 1]])
    assert torch.tensor(read(logits, labels)[0]).exp().tolist() == pytest.approx([0.5, 0.25], abs=1e-6)


def test_answer_logprobs_see_the_first_predicting_position_and_not_the_last_token():
    logits, labels = rows()
    before = read(logits, labels)
    moved = logits.clone()
    moved[0, 8] += torch.arange(11)  # what follows the answer
    moved[0, :5] += torch.arange(11)  # the prompt
    assert read(moved, labels) == before
    moved[0, 5] += torch.arange(11)  # predicts the first answer token
    assert read(moved, labels)[0][0] != before[0][0]


def test_answer_logprobs_ignore_padding_and_batch_check_22():
    logits, labels = rows()
    wide = torch.cat([logits, torch.randn(2, 100, 11)], 1), torch.cat([labels, torch.full((2, 100), IGNORED)], 1)
    left = torch.cat([torch.randn(2, 100, 11), logits], 1), torch.cat([torch.full((2, 100), IGNORED), labels], 1)
    alone = [read(logits[row : row + 1], labels[row : row + 1])[0] for row in (0, 1)]
    for other in (read(*wide), read(*left), alone):
        for got, wanted in zip(other, read(logits, labels), strict=True):
            assert got == pytest.approx(wanted, abs=1e-6)


def test_answer_logprobs_with_a_row_without_answer_give_nothing_for_it():
    logits, labels = rows()
    labels[1] = IGNORED
    assert [len(row) for row in read(logits, labels)] == [3, 0]


def test_answer_logprobs_of_misaligned_logits_raise():
    logits, labels = rows()
    with pytest.raises(ValueError, match="kept positions"):
        answer_logprobs(logits, predicting(labels), labels)
