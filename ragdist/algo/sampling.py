"""Sampling whose draws belong to (key, position, token), so that no batch and no order changes them.

Adding Gumbel noise to logits and taking the largest samples from their softmax. The noise is a hash, not a
stream: a row's token t at position p has the same noise wherever and whenever it is computed.

Axes: R rows (one a text), V vocabulary, C candidates, N entries that are still possible.
"""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the increment of splitmix64, as a signed number
FIRST = 128
"""Candidates that are looked at first; a text whose nucleus is larger gets eight times as many, and again."""
COLDEST = 1e-6
"""Temperatures below it are 0: logits that are divided by less may be infinite, and nothing is drawn from those."""


def gumbel_noise(keys_N: Tensor, position: int | Tensor, tokens_N: Tensor) -> Tensor:
    """[N] float64 draws from the standard Gumbel distribution.

    Args:
        keys_N: int64, the key of the text that each entry belongs to.
        position: number of the new token within its text, from 0; one for all, or [N] int64.
        tokens_N: int64 token ids.
    """
    place = _mix((torch.as_tensor(position, dtype=torch.int64, device=keys_N.device) + 1) * GOLDEN)
    bits_N = _mix(_mix(keys_N ^ place) + (tokens_N + 1) * GOLDEN)
    uniform_N = (_shift(bits_N, 12).double() + 0.5) / 2**52  # strictly between 0 and 1
    return -(-uniform_N.log()).log()


def choose(logits_RV: Tensor, keys_R: Tensor, position: int | Tensor, *, temperature: float, top_p: float) -> Tensor:
    """[R] token ids, drawn from softmax(logits / temperature) cut to its most likely `top_p`; the best at 0.

    Args:
        logits_RV: logits of the next token.
        keys_R: int64, one for each text.
        position: number of the new token within its text, from 0; one for all, or [R] int64.
        temperature: 0, and what logits cannot be divided by, takes the most likely token, the smallest id of equally
            likely ones.
        top_p: keeps the fewest tokens whose probability reaches it; 1 keeps all.
    """
    if temperature < COLDEST:
        return logits_RV.argmax(-1)
    scores_RV = logits_RV.float() / temperature
    chosen_R, open_R = torch.empty_like(keys_R), torch.arange(len(keys_R), device=keys_R.device)
    places_R = torch.as_tensor(position, device=keys_R.device).expand(len(keys_R))
    count = FIRST if top_p < 1 else scores_RV.shape[1]
    while len(open_R):  # sorting a whole vocabulary is slow, and its top is nearly always enough
        scores_RC, tokens_RC, reached_R = _nucleus(scores_RV[open_R], top_p, min(count, scores_RV.shape[1]))
        now_R = open_R[reached_R]
        chosen_R[now_R] = _draw(scores_RC[reached_R], tokens_RC[reached_R], keys_R[now_R], places_R[now_R])
        open_R, count = open_R[~reached_R], 8 * count
    return chosen_R


def choose_all(logits_RV: Tensor, keys_R: Tensor, places_R: Tensor, temperature_R: Tensor, top_p_R: Tensor) -> Tensor:
    """As `choose`, each row with a place, temperature and top p of its own, by operations whose shapes depend on no
    value: what a CUDA graph can hold. Noise is made for the whole vocabulary."""
    warm_R = temperature_R >= COLDEST
    scores_RV = logits_RV.float() / torch.where(warm_R, temperature_R, 1.0)[:, None]
    top_RV, tokens_RV = scores_RV.softmax(-1).sort(-1, descending=True)
    beyond_RV = (top_RV.cumsum(-1) - top_RV >= top_p_R[:, None]) & (top_p_R < 1)[:, None]
    noise_RV = gumbel_noise(keys_R[:, None], places_R[:, None], torch.arange(logits_RV.shape[1], device=keys_R.device))
    noisy_RV = scores_RV.double() + torch.where(warm_R[:, None], noise_RV, 0.0)
    return noisy_RV.masked_fill(beyond_RV.scatter(1, tokens_RV, beyond_RV), -torch.inf).argmax(-1)


def _nucleus(scores_RV: Tensor, top_p: float, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` best scores, -inf outside the fewest tokens whose probability reaches `top_p`.

    Returns:
        [R, count] scores and token ids, the likeliest first; [R] whether these are all that it takes.
    """
    if top_p >= 1:
        tokens_V = torch.arange(count, device=scores_RV.device)
        return scores_RV, tokens_V.expand_as(scores_RV), torch.ones_like(scores_RV[:, 0], dtype=torch.bool)
    top_RC, tokens_RC = scores_RV.softmax(-1).topk(count)
    before_RC = top_RC.cumsum(-1) - top_RC
    all_R = torch.full_like(tokens_RC[:, 0], count == scores_RV.shape[1], dtype=torch.bool)
    reached_R = (top_RC.sum(-1) >= top_p) | all_R  # numbers that are none reach nothing
    return scores_RV.gather(1, tokens_RC).masked_fill(before_RC >= top_p, -torch.inf), tokens_RC, reached_R


def _draw(scores_RC: Tensor, tokens_RC: Tensor, keys_R: Tensor, places_R: Tensor) -> Tensor:
    """[R] token ids: the best score with its noise."""
    rows_N, places_N = scores_RC.isfinite().nonzero(as_tuple=True)
    noisy_RC = torch.full(scores_RC.shape, -torch.inf, dtype=torch.float64, device=scores_RC.device)
    noise_N = gumbel_noise(keys_R[rows_N], places_R[rows_N], tokens_RC[rows_N, places_N])
    noisy_RC[rows_N, places_N] = scores_RC[rows_N, places_N].double() + noise_N
    return tokens_RC.gather(1, noisy_RC.argmax(-1, keepdim=True)).squeeze(1)


def _mix(bits: Tensor) -> Tensor:
    """splitmix64's finaliser on int64 (multiplication wraps around, as it should)."""
    bits = (bits ^ _shift(bits, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    bits = (bits ^ _shift(bits, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return bits ^ _shift(bits, 31)


def _shift(bits: Tensor, count: int) -> Tensor:
    """`bits` shifted right as if they were unsigned."""
    return (bits >> count) & ((1 << (64 - count)) - 1)
