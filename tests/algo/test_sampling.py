import pytest
import torch
from scipy import stats
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from ragdist.algo import sampling
from ragdist.algo.sampling import choose, choose_all, gumbel_noise


def keys(count, seed=0):
    return torch.randint(-(2**62), 2**62, (count,), generator=torch.Generator().manual_seed(seed))


def test_mix_is_splitmix64():
    golden = torch.tensor(sampling.GOLDEN)
    assert sampling._mix(golden).item() & (2**64 - 1) == 0xE220A8397B1DCDAF  # its first output for seed 0


def test_gumbel_noise_has_its_distribution_for_any_kind_of_name():
    one_text = gumbel_noise(torch.full((20_000,), 7), 3, torch.arange(20_000))
    many_texts = gumbel_noise(torch.arange(20_000), 3, torch.full((20_000,), 5))
    for noise in (one_text, many_texts):
        assert stats.kstest(noise.numpy(), "gumbel_r").pvalue > 0.001
    assert abs(stats.spearmanr(one_text, gumbel_noise(torch.full((20_000,), 7), 4, torch.arange(20_000)))[0]) < 0.03


def test_gumbel_noise_belongs_to_text_position_and_token():
    names, tokens = keys(50), torch.arange(50)
    alone = torch.cat([gumbel_noise(names[at : at + 1], 9, tokens[at : at + 1]) for at in range(50)])
    assert torch.equal(gumbel_noise(names, 9, tokens), alone)
    assert not torch.equal(gumbel_noise(names, 10, tokens), alone)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8)])
def test_choose_samples_the_exact_probabilities(temperature, top_p):
    logits = torch.tensor([2.0, 1.5, 0.0, -1.0, 1.0, 0.5, -3.0, 0.2])
    warped = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, logits[None]))[0]
    expected = warped.softmax(-1).double() * 20_000
    drawn = choose(logits.expand(20_000, 8), keys(20_000), 0, temperature=temperature, top_p=top_p)
    counts = drawn.bincount(minlength=8)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    exact = expected[possible] / expected.sum() * 20_000
    assert stats.chisquare(counts[possible], exact).pvalue > 0.001


@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0])
def test_nucleus_keeps_what_transformers_keeps(spread):
    logits = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(1)) * spread
    scores, tokens, _ = sampling._nucleus(logits, 0.95, 20_000)
    ours = torch.full_like(logits, -torch.inf).scatter(1, tokens, scores)
    theirs = TopPLogitsWarper(0.95)(None, logits)
    differing = (ours.isfinite() != theirs.isfinite()).sum(-1)
    assert differing.max() <= (1 if spread >= 1 else 5)  # both add 20,000 float32 numbers, in opposite order
    both = ours.isfinite() & theirs.isfinite()
    assert torch.equal(ours[both], theirs[both])


def test_choose_at_temperature_zero_takes_the_most_likely():
    logits = torch.randn(4, 100)
    assert torch.equal(choose(logits, keys(4), 0, temperature=0.0, top_p=0.1), logits.argmax(-1))


def test_choose_does_not_depend_on_the_other_rows():
    logits, names = torch.randn(16, 500), keys(16)
    together = choose(logits, names, 2, temperature=1.0, top_p=0.9)
    backwards = choose(logits.flip(0), names.flip(0), 2, temperature=1.0, top_p=0.9).flip(0)
    alone = [choose(logits[at : at + 1], names[at : at + 1], 2, temperature=1.0, top_p=0.9).item() for at in range(16)]
    assert together.tolist() == backwards.tolist() == alone


def test_choose_does_not_depend_on_how_many_candidates_it_looks_at_first(monkeypatch):
    logits, names = torch.randn(40, 500) * torch.linspace(0.1, 9, 40)[:, None], keys(40)
    found = []
    for first in (1, 16, 128, 500):
        monkeypatch.setattr(sampling, "FIRST", first)
        found.append(choose(logits, names, 2, temperature=0.8, top_p=0.95).tolist())
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.timeout(20)
def test_what_is_too_cold_or_no_number_ends():
    logits_RV, keys_R = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([7])
    assert choose(logits_RV, keys_R, 0, temperature=5e-324, top_p=0.5).tolist() == [1]
    assert len(choose(logits_RV * torch.nan, keys_R, 0, temperature=1.0, top_p=0.5)) == 1


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_choose_all_is_choose_for_each_row(spread):
    """Rows of places, temperatures and nuclei of their own, in one go."""
    logits = torch.randn(64, 3000, generator=torch.Generator().manual_seed(3)) * spread
    names, places = keys(64), torch.arange(64) % 7
    warmth, shares = torch.tensor([0.0, 0.7, 1.0, 1.3] * 16), torch.tensor([1.0] * 16 + [0.95, 0.5, 0.8] * 16)
    together = choose_all(logits, names, places, warmth, shares)
    for row in range(64):
        how = {"temperature": warmth[row].item(), "top_p": shares[row].item()}
        assert together[row] == choose(logits[row : row + 1], names[row : row + 1], int(places[row]), **how)
    same = choose(logits, names, places, temperature=0.7, top_p=0.9)
    assert torch.equal(same, choose_all(logits, names, places, torch.full((64,), 0.7), torch.full((64,), 0.9)))
