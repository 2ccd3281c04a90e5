"""Settings: layered, ranged, and wrong ones fail by name."""

import re

import pytest

from ragdist.config import loader
from ragdist.errors import ConfigError


def test_load_later_values_win(tmp_path):
    (tmp_path / "a.yaml").write_text("contexts: {oracle_fraction: 0.4, documents: 3}\nseed: 7\n")
    settings = loader.load([str(tmp_path / "a.yaml"), "contexts.oracle_fraction=0.8", "train.learning_rate=1e-5"])
    assert (settings.contexts.oracle_fraction, settings.contexts.documents, settings.seed) == (0.8, 3, 7)
    assert settings.train.learning_rate == 1e-5


def test_load_round_trips_through_dump(tmp_path):
    settings = loader.load(["contexts.documents=7", "corpus.packages=[numpy]"])
    (tmp_path / "b.yaml").write_text(loader.dump(settings))
    assert loader.load([str(tmp_path / "b.yaml")]) == settings


@pytest.mark.parametrize(
    ("argument", "wanted"),
    [
        ("contexts.oracle_fracton=1", "contexts.oracle_fraction"),
        ("train.lr=1", "nearest"),
        ("contexts.oracle_fraction=2", "less than or equal to 1"),
        ("train.microbatch=5", "train.examples_per_step=16"),
        ("chunks.overlap=600", "chunks.tokens=512"),
        ("nowhere.yaml", "nowhere.yaml"),
        ("contexts.oracle_fraction=[", "not YAML"),
        ("kube.namespace=A_B", "set kube.namespace=..."),  # the pattern that it should match has braces
    ],
)
def test_load_wrong_setting_names_the_knob(argument, wanted):
    with pytest.raises(ConfigError, match=wanted.replace(".", r"\.")):
        loader.load([argument])


@pytest.mark.parametrize("block", ["train", "attacker.train", "generator.train", "duet.reciter", "duet.scorer"])
@pytest.mark.parametrize(("offload", "stage"), [("optimizer", 1), ("all", 3)])
def test_what_is_offloaded_has_to_be_sharded(block, offload, stage):
    loader.load([f"{block}.offload={offload}", f"{block}.zero_stage={stage}"])
    wanted = f"{block}.offload={offload} needs {block}.zero_stage={stage} or more, got {stage - 1};"
    with pytest.raises(ConfigError, match=re.escape(wanted)):
        loader.load([f"{block}.offload={offload}", f"{block}.zero_stage={stage - 1}"])


@pytest.mark.parametrize("side", ["attacker", "generator"])
def test_adapters_of_atm_learn_without_dropout(side):
    loader.load(["train.lora.rank=4", "train.lora.dropout=0.1", f"{side}.train.lora.rank=4"])
    with pytest.raises(ConfigError, match=rf"{side}\.train\.lora\.dropout=0.1: .*; set {side}\.train\.lora\.dropout=0"):
        loader.load([f"{side}.train.lora.rank=4", f"{side}.train.lora.dropout=0.1"])


SHARED = ["atm.layout=shared_base", "attacker.train.lora.rank=4", "generator.train.lora.rank=8"]


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        (
            "generator.train.lora.rank=0",
            "generator.train.lora.rank=0 tunes all weights; set generator.train.lora.rank=",
        ),
        ("attacker.train.zero_stage=3", "got attacker.train.zero_stage=3 and generator.train.zero_stage=2; set both"),
        ("generator.train.offload=optimizer", "attacker.train.offload=none and generator.train.offload=optimizer"),
        ("generator.workers=2", "got attacker.workers=1 and generator.workers=2; leave generator.workers out"),
        ("generator.gpus_per_worker=1", "generator.gpus_per_worker=1.0; leave generator.gpus_per_worker out"),
    ],
)
def test_a_shared_base_refuses_what_makes_no_sense(more, wanted):
    with pytest.raises(ConfigError, match=re.escape(wanted)):
        loader.load([*SHARED, more])
    if "lora" not in more:
        loader.load([*SHARED[1:], more])  # two groups


def test_a_shared_base_has_one_group_the_attackers():
    made = loader.load([*SHARED, "attacker.workers=2"])
    assert made.groups[1] == ("attacker",) and loader.load([]).groups[1] == ("attacker", "generator")
    loader.load([*SHARED, "attacker.workers=2", "generator.workers=2"])
    with pytest.raises(ConfigError, match=r"generator\.train\.microbatch \* attacker\.workers = 4 \* 3"):
        loader.load([*SHARED, "attacker.workers=3", "attacker.train.examples_per_step=12"])


@pytest.mark.parametrize("old", loader.MOVED)
def test_a_setting_that_moved_names_its_new_place_and_kept_settings_are_read_without_it(old, tmp_path):
    with pytest.raises(ConfigError, match=f"no such setting any more: '{old}'; set '{loader.MOVED[old]}'"):
        loader.load([f"{old}=1"])
    kept = loader.flatten(loader.load(["seed=7"]))
    (tmp_path / "settings.yaml").write_text(loader.dump(loader.load(["seed=7"])))
    values = loader.yaml.safe_load((tmp_path / "settings.yaml").read_text())
    block, _, name = old.partition(".")
    values[block][name] = 1
    (tmp_path / "settings.yaml").write_text(loader.yaml.safe_dump(values))
    assert loader.flatten(loader.load_kept(tmp_path / "settings.yaml")) == kept


def test_answerers_take_the_workers_places_where_the_driver_has_no_gpu():
    gpus = loader.load(["cluster.workers=4", "cluster.gpus_per_worker=1", "train.microbatch=1"])
    assert gpus.answerers(gpu_here=True).workers == 0
    found = gpus.answerers(gpu_here=False)
    assert (found.workers, found.gpus_per_worker) == (4, 1)
    assert loader.load(["cluster.workers=4"]).answerers(gpu_here=False).workers == 0
    asked = loader.load(["evaluation.answerers.workers=2", "cluster.gpus_per_worker=1"])
    assert asked.answerers(gpu_here=False) == asked.evaluation.answerers  # as they were asked for


def test_workers_of_a_job_do_not_share_a_card():
    assert loader.load(["cluster.workers=1", "cluster.gpus_per_worker=0.5"]).cluster.gpus_per_worker == 0.5
    assert loader.load(["cluster.workers=2", "cluster.gpus_per_worker=1"]).cluster.workers == 2
    with pytest.raises(ConfigError, match=r"cluster\.gpus_per_worker=1, or cluster\.workers=1"):
        loader.load(["cluster.workers=2", "cluster.gpus_per_worker=0.5"])


def test_fingerprint_changes_with_any_value():
    base = loader.load([])
    assert loader.load([]).fingerprint() == base.fingerprint()
    assert loader.load(["train.lora.rank=1"]).fingerprint() != base.fingerprint()


def test_U8_settings_come_from_a_path_a_text_nested_values_or_several(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("train: {epochs: 3}\n")
    wanted = loader.load([f"{file}"])
    assert wanted.train.epochs == 3
    for given in (str(file), file, [file], {"train": {"epochs": 3}}, {"train.epochs": 3}, "train.epochs=3"):
        assert loader.load(given) == wanted
    assert loader.load([file, {"train.epochs": 4}, "seed=2"]) == wanted.replaced({"train.epochs": 4, "seed": 2})


def test_replaced_settings_are_checked_as_loaded_ones_and_the_old_ones_stay():
    first = loader.load({"train.epochs": 3, "generator.train.learning_rate": 1e-4})
    later = first.replaced({"train": {"examples_per_step": 8}, "corpus.folder": "documents"})
    assert (later.train.epochs, later.train.examples_per_step, later.corpus.source) == (3, 8, "folder")
    assert later.generator.train.learning_rate == 1e-4 and first.corpus.folder != "documents"
    assert first.replaced("attacker", first.generator).attacker == first.generator
    for changes, said in (
        ({"train.epochz": 2}, "no such setting: 'train.epochz'; the nearest is 'train.epochs'"),
        ({"train.epochs": "many"}, "train.epochs='many': wanted a number"),
        ({"cluster.workers": 3}, "train.examples_per_step=16 must be a multiple"),
    ):
        with pytest.raises(ConfigError, match=said):
            first.replaced(changes)


@pytest.mark.parametrize(
    "url",
    [
        *("https://h/v1?api-key=abc", "https://h/v1?api_key=abc", "https://h/v1?token=x", "https://h/?sig=x&v=1"),
        *("https://h/v1?code=abc", "https://h/v1?subscription-key=", "https://h/v1?x=sk-proj-1234567890abcdefghijk"),
        *("https://me:sk-1@h/v1", "https://h/v1#sk-1", "https://h\\@evil/v1", "https://h/v1?next=https://evil"),
    ],
)
def test_S3_an_address_with_a_secret_in_it_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match=r"teacher\.url must be .*OPENAI_API_KEY") as raised:
        loader.load([f"teacher.url={url}", "teacher.model=m"])
    assert not [secret for secret in ("abc", "sk-", "evil") if secret in str(raised.value)]


@pytest.mark.parametrize(
    "url", ["https://h/v1", "http://h:8000", "https://h/openai/deployments/x?api-version=2024-10-21"]
)
def test_R16_an_address_may_name_a_version(url):
    assert loader.load([f"teacher.url={url}", "teacher.model=m"]).teacher.url == url


@pytest.mark.parametrize(
    "said", ["evaluation.forgeries=68085902166995064", "evaluation.forgeries=1001", "evaluation.resamples=1000000000"]
)
def test_R18_counts_that_would_take_all_time_or_memory_are_refused(said):
    with pytest.raises(ConfigError, match=rf"^{said.partition('=')[0]}=.*less than or equal to 1000.*"):
        loader.load([said])
