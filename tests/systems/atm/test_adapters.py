"""ATM with adapters in one process: both layouts are one game, and what it leaves answers, is served and exported."""

from pathlib import Path

import pytest
import torch

from ragdist.export import export_model, publish
from ragdist.lm.load import load_model, load_tokenizer, with_adapter
from ragdist.local import LocalAnswerers
from ragdist.storage.atomic import read_json
from tests import game, tiny
from tests.systems.atm.test_run import play

LAYOUTS = ("separate", "shared_base")


def settings(folder, model, layout, **lora):
    """A round whose generator is tuned first, and whose attacker is warmed up."""
    side = {"train": {"lora": {"rank": 4} | lora}}
    few = {"rounds": 1, "samples": 3, "max_new_tokens": 12, "questions_per_microbatch": 4, "layout": layout}
    first = {"first_tuning": True, "attacker_warmup": "swap"}
    return game.settings(folder, model, atm=few | first, attacker=side, generator=side)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def played(tmp_path_factory, model):
    """(settings, outcome) of each layout."""
    found = {}
    for layout in LAYOUTS:
        made = settings(tmp_path_factory.mktemp(layout), model, layout)
        found[layout] = made, play(made)
    return found


def test_both_layouts_are_one_game(played):
    journals = [game.journal(Path(made.run.folder) / "game") for made, _ in played.values()]
    assert journals[0] == journals[1]
    adapters = [name for name in journals[0] if name.endswith("adapter_model.safetensors")]
    assert len(adapters) == 4 and not any(name.endswith("/model.safetensors") for name in journals[0])
    assert len({journals[0][name] for name in adapters}) == 4


def test_the_published_model_is_whole_or_the_adapter_as_the_settings_say(played, model, tmp_path):
    made, outcome = played["shared_base"]
    publish(outcome.generator, tmp_path / "whole", made)
    publish(outcome.generator, tmp_path / "alone", made.unchecked("generator.train.lora.merge", False))
    assert "README.md" not in {file.name for file in outcome.generator.iterdir()}  # the card is the published one's
    assert not (tmp_path / "alone/config.json").exists() and not (tmp_path / "whole/adapter_config.json").exists()
    base = load_model(made.model, training=True)
    wanted = with_adapter(base, outcome.generator).state_dict()
    whole = load_model(made.model.at(str(tmp_path / "whole")))
    assert all(torch.equal(whole.state_dict()[name], wanted[name]) for name in wanted)
    prompts = tiny.prompts(4)
    texts = []
    for name in ("whole", "alone"):
        with LocalAnswerers(made).open(str(tmp_path / name)) as answerer:
            texts.append([text.text for batch in answerer.write(prompts, max_new_tokens=8) for text in batch])
        assert load_tokenizer(made.model.at(str(tmp_path / name))).fingerprint == load_tokenizer(made.model).fingerprint
    assert texts[0] == texts[1]
    export_model(str(tmp_path / "alone"), tmp_path / "adapter", "adapter", base="someone/tiny")
    assert read_json(tmp_path / "adapter/adapter_config.json")["base_model_name_or_path"] == "someone/tiny"
