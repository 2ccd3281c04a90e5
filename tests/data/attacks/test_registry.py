"""Attacks by name: ragdist's own and a stranger's package; what models may learn from and what is held out."""

import inspect
import re
import textwrap
from pathlib import Path

import pytest

from ragdist import planning
from ragdist.config import Settings
from ragdist.config.loader import resolve
from ragdist.data import attacks as package
from ragdist.data import defences, plugins
from ragdist.data.attacks import registry
from ragdist.data.attacks.forging import forge
from ragdist.data.defences import registry as defence_registry
from ragdist.errors import ConfigError
from ragdist.systems.atm import mixing
from tests.data.attack import opened
from tests.data.attacks.about import tower

STRANGER = """
from ragdist.data.attacks import Attack, Lie

def shout(target, rng):
    for source in target.sources[: target.count]:
        yield Lie(source.title, f"{target.question.text} {target.wrong}!", target.wrong)

ATTACK = Attack(name="shout", source="mine", purpose="judging", write=shout, about="Says it aloud.")
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package with these entry points where Python finds packages."""

    def put(code=STRANGER, points="shout = {module}:ATTACK", name="shouting", version="1.0", group="attacks"):
        folder = tmp_path / f"{name}-{version}"
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        module = re.sub(r"\W", "_", f"{name}_{version}_{tmp_path.name}")
        (folder / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[ragdist.{group}]\n{points.format(module=module)}\n")
        monkeypatch.syspath_prepend(str(folder))
        plugins.loaded.cache_clear()
        return folder

    yield put
    plugins.loaded.cache_clear()


def test_a_strangers_attack_of_ten_lines_is_one_of_all(install):
    assert "shout" not in registry.names()
    install()
    attack = registry.named("shout")
    (forgery,) = forge(attack, tower())
    assert forgery.text == "When was the Eiffel Tower finished? 1925!" and forgery.method == "shout"
    assert registry.names()[-1] == "shout" and registry.every("judging")[-1] == attack
    assert attack in registry.chosen(["held-out"]) and registry.chosen(["shout", "all"])[0] == attack


def test_example_in_the_package_is_an_attack():
    code = textwrap.dedent(inspect.getdoc(package).partition("`ragdist.attacks`:\n")[2].rpartition("docs/")[0])
    found = {}
    exec(code, found)
    assert forge(found["ATTACK"], tower())[0].text == "When was the Eiffel Tower finished? 1925!"


def test_example_of_a_defence_is_one_of_all_and_a_broken_one_is_named(install):
    code = textwrap.dedent(inspect.getdoc(defences).partition("`ragdist.defences`:\n")[2].rpartition("docs/")[0])
    install(code, "first-half = {module}:DEFENCE", "halving", group="defences")
    assert defence_registry.names()[-1] == "first-half"
    found = defence_registry.chosen(["all"])[-1]
    assert found.name == "first-half" and found.source == "mine"
    install("DEFENCE = 3", "all = {module}:DEFENCE", "alls", group="defences")
    with pytest.raises(ConfigError, match=r"defence 'all' of package alls is a int, wanted a ragdist\.data\.def"):
        defence_registry.named("all")


def test_another_version_or_code_is_another_attack(install, monkeypatch):
    versions = set()
    for code, version in ((STRANGER, "1.0"), (STRANGER, "1.1"), (STRANGER.replace("!", "?"), "1.2")):
        with monkeypatch.context() as alone:
            alone.syspath_prepend(str(install(code, version=version)))
            versions.add(registry.named("shout").version)
    assert len(versions) == 3


@pytest.mark.parametrize(
    ("code", "points", "why"),
    [
        ("1 / 0", "shout = {module}:ATTACK", "raised ZeroDivisionError (division by zero)"),
        ("", "shout = {module}:ATTACK", "raised AttributeError"),
        ("ATTACK = 3", "shout = {module}:ATTACK", "is a int, wanted a ragdist.data.attacks.Attack"),
        (STRANGER, "cry = {module}:ATTACK", "calls itself 'shout', wanted the name of its entry point"),
        (STRANGER.replace('"judging"', '"fun"'), "shout = {module}:ATTACK", "has purpose='fun', wanted training or"),
        (STRANGER.replace("about=", 'place="middle", about='), "shout = {module}:ATTACK", "has place='middle', wanted"),
        (STRANGER.replace("shout", "oracle"), "oracle = {module}:ATTACK", "has a name that means something else"),
        (STRANGER.replace('"shout"', '"So Loud"'), "So Loud = {module}:ATTACK", "wants lower case, digits and hyphens"),
    ],
)
def test_a_broken_package_is_one_line_that_names_it(install, code, points, why):
    install(code, points)
    with pytest.raises(ConfigError, match=re.escape(why)) as told:
        registry.named(points.partition(" = ")[0])
    assert "of package shouting" in str(told.value) and "\n" not in str(told.value)


def test_two_packages_with_one_attack_are_refused_and_own_names_stay_own(install):
    install()
    install(name="yelling")
    with pytest.raises(ConfigError, match="'shout' is brought by shouting, yelling; uninstall all but one"):
        registry.named("shout")
    install(points="flood = {module}:ATTACK", name="flooding")
    assert registry.named("flood") is registry.OWN["flood"] and registry.names().count("flood") == 1


def test_an_unknown_attack_is_refused_with_all_names():
    with pytest.raises(ConfigError, match="no attack 'flod'; there are template, swap, "):
        registry.named("flod")
    with pytest.raises(ConfigError, match="no attack 'flod'"):
        planning.check_data(resolve({"evaluation": {"attacks": ["flod"]}}))


def test_training_and_held_out_lists_never_mix():
    """By name, and by what is written: no held-out instruction is one that models learn from."""
    training, judging = registry.every("training"), registry.every("judging")
    assert {attack.name for attack in training} >= {"template", "swap", "injection"} and len(judging) >= 10
    assert {attack.name for attack in training} & {attack.name for attack in judging} == set()
    assert {attack.write for attack in training} & {a.write for a in judging if a.place == "drawn"} == set()
    said = {name: {one.text for one in forge(registry.named(name), tower())} for name in registry.OWN}
    learned = said["injection"] | said["swap"]
    for attack in judging:
        if attack.name not in ("flood", "near-duplicates", "position"):  # which differ in number and place alone
            assert not said[attack.name] & (learned | said["template"]), attack.name


@pytest.mark.parametrize("name", [attack.name for attack in registry.OWN.values() if attack.purpose == "judging"])
def test_a_held_out_attack_is_refused_for_training_by_name(name):
    settings = resolve({"atm": {"replay": {"attacks": ["template", name]}}})
    with pytest.raises(
        ConfigError, match=rf"atm.replay.attacks='{name}': this attack is held out for judging, and"
    ) as e:
        planning.check_data(settings)
    assert e.value.exit_code == 2 and "could not be judged by it; take earlier, template, swap, injection" in str(
        e.value
    )
    with pytest.raises(ConfigError, match="held out for judging"):  # by whatever way they come
        mixing.attacks(opened()[0], [], [], 0, settings.atm, seed=0)


def test_a_strangers_attack_may_be_learned_from_if_it_is_for_training(install):
    install(STRANGER.replace('"judging"', '"training"'))
    settings = resolve({"atm": {"replay": {"attacks": ["shout"]}}})
    planning.check_data(settings)
    _, found = mixing.attacks(opened()[0], [], [], 0, settings.atm, seed=0)
    assert found[0].method == "shout"


def test_attacks_page_names_every_attack_with_its_list():
    page = (Path(__file__).parents[3] / "docs" / "attacks.md").read_text()
    rows = {row[1].strip(" `"): row for line in page.splitlines() if len(row := line.split("|")) == 6}
    for attack in registry.OWN.values():
        assert [cell.strip() for cell in rows[attack.name][2:5]] == [
            attack.about,
            attack.source,
            {"training": "training", "judging": "held out"}[attack.purpose],
        ]


def test_default_settings_ask_no_attack():
    assert Settings().evaluation.attacks == () and Settings().evaluation.grid.attack == ""
