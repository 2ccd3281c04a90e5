"""What `make test-faults` once found, small: it is found no more."""

import signal

import pytest

from tests.faults import calls
from tests.faults.bases import BASES

FOUND = sorted(calls.CASES.glob("*.json"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """One folder for each surface that has a case."""
    made = {}
    for name in {calls.kept(path)[0] for path in FOUND}:
        made[name] = tmp_path_factory.mktemp(name)
        BASES[name](made[name])
    return made


@pytest.mark.parametrize("path", FOUND, ids=[path.stem for path in FOUND])
def test_a_case_that_was_found_once(path, bases):
    surface, case = calls.kept(path)
    assert calls.run(case, bases[surface])[0] == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_search_whatever_the_command_makes_of_it(monkeypatch, number):
    def swallowing(case, base):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        return "", 0

    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(calls, "run", swallowing)
    try:
        with calls.Surface("signals", 1.0) as surface, pytest.raises(KeyboardInterrupt):
            surface.run(calls.Case([]))
    finally:
        for one, how in before.items():
            signal.signal(one, how)
    assert surface.count == 0
