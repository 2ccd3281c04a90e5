"""Settings from outside: nothing is lost or guessed, reading ends, and what is refused is one line."""

import itertools
import json
import time
from datetime import date, datetime
from pathlib import Path

import pytest

from ragdist.config import loader, strict
from ragdist.errors import ConfigError
from ragdist.sweeps import trials


def refused(given):
    """The one line that says what is wrong; at once."""
    begin = time.monotonic()
    with pytest.raises(ConfigError) as error:
        loader.load(given)
    assert "\n" not in str(error.value) and time.monotonic() - begin < 2
    assert len(str(error.value)) < 500
    return str(error.value)


def read(tmp_path, content):
    path = tmp_path / "s.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("run.name=2026-11-27", "run.name", "2026-11-27"),
        ("model.revision=2024-05-01", "model.revision", "2024-05-01"),
        ("run.name=2026-11-27 01:02:03", "run.name", "2026-11-27 01:02:03"),
        ("run.name=12:30", "run.name", "12:30"),
        ("run.name=007", "run.name", "007"),
        ("seed=010", "seed", 10),
        ("sweep.over={model.revision: [2024-05-01, 2024-05-02]}", "sweep.over", None),
        ({"run.name": date(2026, 11, 27)}, "run.name", "2026-11-27"),
        ({"sweep.over": {"model.revision": [datetime(2024, 5, 1)]}}, "sweep.over", None),
        ({"corpus.folder": Path("documents")}, "corpus.folder", "documents"),
    ],
)
def test_R1_what_yaml_takes_for_dates_and_times_is_text(argument, key, value):
    settings = loader.load(argument)
    found = loader.flatten(settings)[key]
    assert value is None or found == value
    assert json.loads(settings.model_dump_json()) and settings.fingerprint()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("run.name=!!binary aGk=", "tag"),
        ("run.trackers=!!set {wandb}", "tag"),
        ("run.name=!!python/name:os.system", "tag"),
        ("seed=!!int abc", "tag"),
        ("train.learning_rate=.nan", "finite"),
        ("sweep.over={train.epochs: [1, .inf]}", "finite"),
        ({"train.epochs": float("nan")}, "finite"),
        ({"sweep.over": {"seed": {1, 2}}}, "is a set"),
        ({"run.name": b"x"}, "is a bytes"),
        ("run.name=[? [a, b] : c]", "no text"),
    ],
)
def test_R1_values_that_json_cannot_hold_are_refused(given, told):
    assert told in refused(given)


def test_R2_an_override_may_be_as_long_as_a_prompt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "Answer from the documents. " * 400
    assert loader.load([f"prompts.system_closed='{text}'"]).prompts.system_closed == text
    assert trials.load([f"prompts.system_closed='{text}'", "seed=1,2"]).sweep.over == {"seed": [1, 2]}
    for name in ("é" * 200, "x" * 300, "~nobody/" + "x" * 5000):
        assert "no such setting" in refused(f"{name}=1")
    assert "cannot be read" in refused("x" * 300) and "cannot be read" in refused("~nobody/s.yaml")
    (tmp_path / "a=b").write_text("seed: 3\n")
    assert loader.load("a=b").seed == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("run: {name: é}".encode("latin-1"), "not UTF-8: byte 0xe9 in line 1"),
        (b"seed: 1\n# \xff\n", "not UTF-8: byte 0xff in line 2"),
        ("seed: 1".encode("utf-16"), "save it as UTF-8"),
        ("seed: 1".encode("utf-16-le"), "save it as UTF-8"),
        (b"seed: \x00", "NUL"),
        (b"#" * (2**20 + 1), "larger than"),
        ("[" * 3000, "nested deeper than 32"),
        ("{a: " * 3000, "nested deeper than 32"),
        ("- " * 3000, "nested deeper than 32"),
        ("\n".join(" " * n + "a:" for n in range(200)), "nested deeper than 32"),
        ("run: &r {name: *r}", "*r in line 1 inside"),
        ("&r\nrun: [1, *r]", "*r in line 2 inside"),
        ("a: &a [x]\nb: &b [*a, &c [*b]]", "*b in line 2 inside"),
        ("--- {seed: 1}\n--- {seed: 2}", "single document"),
        ("seed: *nobody", "undefined alias"),
        ("[1, 2]", "holds a list"),
        ("\tseed: 1", "not YAML"),
    ],
)
def test_R3_files_that_are_no_settings_are_one_line(tmp_path, content, told):
    line = refused(read(tmp_path, content))
    assert told in line and "s.yaml" in line


@pytest.mark.parametrize("width", [2, 9])
@pytest.mark.parametrize("shape", ["[{}]", "{{{}}}"])
def test_R3_aliases_that_multiply_are_refused_at_once(tmp_path, shape, width):
    def row(name):
        keys = range(width) if shape != "[{}]" else [""] * width
        return shape.format(", ".join(f"k{key}: *{name}" if key != "" else f"*{name}" for key in keys))

    names = [f"a{number}" for number in range(30)]
    lines = ["a0: &a0 [x, x]", *(f"{new}: &{new} {row(old)}" for old, new in itertools.pairwise(names))]
    assert "counted where aliases put them" in refused(read(tmp_path, "\n".join(lines)))


def test_R3_aliases_and_byte_order_marks_are_read(tmp_path):
    text = "train: &t {epochs: 3, lora: {rank: 8}}\nattacker: {train: *t}\ngenerator: {train: {<<: *t, epochs: 2}}\n"
    settings = loader.load(read(tmp_path, text.encode("utf-8-sig")))
    assert (settings.train.epochs, settings.attacker.train.epochs, settings.generator.train.epochs) == (3, 3, 2)
    assert settings.generator.train.lora.rank == 8


@pytest.mark.parametrize("digits", [19, 40, 5000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_R3_numbers_that_no_machine_holds_are_refused(digits, sign):
    text = sign + "9" * digits
    for given in (f"seed={text}", f"chunks.tokens={text}", f"sweep.over={{seed: [{text}, 1]}}"):
        if "over" in given and digits > 100:
            continue  # read as text: it is no number of any kind
        refused(given)
    if digits < 100:
        refused({"seed": int(text)})


@pytest.mark.parametrize(
    "argument", ["run.name=a\0b", 'run.name="a\\0b"', 'run.name="\\ud800"', "run.name=\udce9", "x\0.yaml", "k\0=1"]
)
def test_R3_characters_that_are_none_are_refused(argument):
    refused(argument)
    with pytest.raises(ConfigError):
        trials.load([argument])


def test_R3_values_from_python_pass_the_same_gate():
    deep: list = []
    deep.append(deep)
    for given in ({"sweep.over": deep}, {"sweep": {"over": {"seed": deep}}}, {"run.name": "\udc80"}):
        refused(given)
    refused({"a." * 5000: 1})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("train: {epochs: 1}\nseed: 1\ntrain: {epochs: 2}\n", "has 'train' twice, in lines 1 and 3"),
        ("train:\n  epochs: 1\n  lora: {rank: 1}\n  epochs: 2\n", "has 'epochs' twice, in lines 2 and 4"),
        ("train: {lora: {rank: 1, 'rank': 2}}", "has 'rank' twice, in lines 1 and 1"),
        ("sweep: {arms: {a: {seed: 1}, b: {}, a: {seed: 2}}}", "has 'a' twice"),
        ("? seed\n: 1\n? seed\n: 2\n", "has 'seed' twice"),
    ],
)
def test_R4_same_block_twice_is_refused(tmp_path, content, told):
    assert told in refused(read(tmp_path, content))


def test_R3_many_wrong_keys_are_told_at_once(tmp_path):
    begin = time.monotonic()
    with pytest.raises(ConfigError) as error:
        loader.load(read(tmp_path, "".join(f"key{number}: 1\n" for number in range(5000))))
    assert str(error.value).count("\n") == 20 and str(error.value).endswith("and 4980 more")
    assert time.monotonic() - begin < 5


def test_R4_same_key_twice_in_an_override_is_refused_and_twice_on_the_command_line_is_not():
    assert "has 'rank' twice" in refused("train.lora={rank: 1, rank: 2}")
    assert loader.load(["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("written", ["on", "yes", "true", "off", "No", "FALSE"])
@pytest.mark.parametrize(
    "key",
    [
        *("cluster.workers", "chunks.overlap", "train.learning_rate", "train.lora.rank", "teacher.budget_usd", "seed"),
        *("evaluation.oracle_share", "duet.margin", "attacker.train.epochs", "serve.port"),
    ],
)
def test_R5_true_and_false_are_no_numbers(key, written):
    line = refused(f"{key}={written}")
    assert key in line and "true and false" in line


@pytest.mark.parametrize("argument", ["cluster.resources={a: true}", "corpus.questions=[true]", "run.trackers=[on]"])
def test_R5_nor_inside_lists_and_maps(argument):
    refused(argument)


def test_R5_true_and_false_are_what_they_are_where_they_are_wanted():
    for written, value in (("yes", True), ("off", False), ("true", True), ("1", True)):
        assert loader.load([f"run.keep_checkpoints={written}"]).run.keep_checkpoints is value
    assert loader.load(["sweep.over={train.lora.merge: [true, false]}"]).sweep.over


@pytest.mark.parametrize(
    "name",
    ["../../x", "/abs", ".", "..", "data", "data/x", "a/b", "demo/model", "a/../b", "./a", "a/", "a\nb", "a\x1b"],
)
def test_S4_run_names_stay_among_the_runs(name):
    with pytest.raises(ConfigError, match=r"run\.name"):
        loader.load({"run.name": name})


@pytest.mark.parametrize("name", [" a", "x" * 256, "é" * 200, "\u202eevil", "\u2028"])
def test_S4_run_names_are_names_of_folders_that_people_can_read(name):
    with pytest.raises(ConfigError, match=r"run\.name"):
        loader.load({"run.name": name})


@pytest.mark.parametrize(
    "name", ["", "demo", "Test_A", "東京", "night run 2", "data2", "..x", "sweep/trials/a=1-f0/share-0.5"]
)
def test_S4_other_run_names_are_taken(name):
    assert loader.load({"run.name": name}).run.name == name


def test_what_is_dumped_is_read_again_as_it_was(tmp_path):
    given = {"run.name": "2026-11-27", "model.revision": "012", "prompts.system_closed": "12:30\x07 yes"}
    settings = loader.load(given)
    (tmp_path / "s.yaml").write_text(loader.dump(settings))
    assert loader.load(tmp_path / "s.yaml") == settings == loader.load_kept(tmp_path / "s.yaml")
    assert strict.parse("", "nothing") is None
