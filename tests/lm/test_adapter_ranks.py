"""Two ranks with adapters: at every ZeRO stage, in both layouts, what one process does; kills leave no trace."""

import json

import pytest
import torch

from tests import learning, tiny
from tests.lm.test_adapters import without_seconds

LAYOUTS = ("separate", "shared_base")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def one(tmp_path_factory, folder):
    root = tmp_path_factory.mktemp("one")
    return root, learning.play(learning.adapted(folder, "separate", zero_stage=0), folder, root)


@pytest.fixture(scope="module")
def two(tmp_path_factory, folder):
    root = tmp_path_factory.mktemp("two")
    for layout in LAYOUTS:
        learning.two_ranks("adapters", folder, root, "float32", layout, "03")
    return root


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_ranks_take_the_steps_of_one(one, two, layout, stage):
    alone, said = one
    here = two / layout / f"{stage}"
    found = json.loads((here / "said.json").read_text())
    for phase in ("attacker-0", "generator-0"):
        for line, wanted in zip(found[phase], said[phase], strict=True):
            assert line["loss"] == pytest.approx(wanted["loss"], abs=1e-4), phase
    first, wanted = (learning.weights(root / "0/attacker/model") for root in (here, alone))
    assert all(torch.allclose(first[name], wanted[name], atol=1e-3) for name in wanted)
    assert learning.checksum(here / "on/model") == learning.checksum(here / "fresh/model")


@pytest.mark.parametrize("stage", [0, 3])
def test_layouts_agree_on_two_ranks(two, stage):
    first, second = (json.loads((two / layout / f"{stage}/said.json").read_text()) for layout in LAYOUTS)
    assert without_seconds(first) == without_seconds(second)
