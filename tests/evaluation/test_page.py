"""report.html in a headless Chromium without a network: what a person sees, and what no text may do to it."""

import base64
import gzip
import json
import shutil
import time
from dataclasses import replace

import pytest

from ragdist.config import SweepConfig
from ragdist.evaluation import kept_answers, page
from ragdist.evaluation.intervals import Interval
from ragdist.evaluation.kept_answers import Shown
from ragdist.evaluation.page import Bar, Beside
from ragdist.evaluation.sheet import (
    Mark,
    Notes,
    Picture,
    Quote,
    Series,
    Sheet,
    Table,
    Value,
    keep,
    kept,
    markdown,
    visible,
)
from ragdist.sweeps import report
from ragdist.sweeps.summary import summarise
from tests.evaluation.test_kept_answers import HOSTILE, answer
from tests.sweeps.test_summary import trial

SHEET = Sheet(
    [
        Table(
            title=f"Scores {HOSTILE}",
            columns=("", *(f"condition {n}" for n in range(8))),
            rows=[("base", *[Value(Interval(0.29, 0.2, 0.38), "0.00 / 0.04")] * 8), (Quote(HOSTILE), "0.5")],
        ),
        Notes(lines=[f"a note {HOSTILE}"]),
        Table(title="Changes", columns=("a", "b"), rows=[("x", "y")], long=True),
        Picture(title=HOSTILE, series=[Series(label="$a$ $", marks=[Mark(0, 0.0), Mark(1, 0.5)])], x="step", y="right"),
        Picture(series=[Series(marks=[Mark(0, Interval(0.5, 0.4, 0.6))], form="bars")], ticks=("oracle",)),
    ],
    {},
    f"RAFT against base {HOSTILE}",
    [f"Oracle present: RAFT is right in 56%. {HOSTILE}"],
)
MORE = Beside(
    name="demo",
    about="raft, today",
    bars=[Bar("run", "data", 0.0, 3.0), Bar("run", "train", 3.0, 70.0), Bar("attacker 0", HOSTILE, 2.0, 5.0)],
    minutes=[("train", 1.1)],
    files=[("settings.yaml", visible(f"a: {HOSTILE}"))],
)


def pair(number, before, after, condition="oracle", **more):
    """A question as two models answer it, right or wrong; its documents are an oracle and a forgery."""
    documents = (Shown(f"m.f{number}", f"f{number}(size=1) {HOSTILE}", "oracle", "c"), Shown("m", "2", "forged", "x"))
    asked = answer(
        question_id=f"q{number}", question=f"What is f{number}? {HOSTILE}", condition=condition, documents=documents
    )
    return [
        replace(
            asked, model=model, answer="1" if right else "2", subspan_em=float(right), text=f"Well. {right}", **more
        )
        for model, right in (("base", before), ("RAFT", after))
    ]


FOUR = [
    *pair(0, False, True),
    *pair(1, True, False),
    *pair(2, True, True),
    *pair(3, False, False, "attacked", states_forgery=True),
    *pair(4, False, False, "attacked", abstained=True),
]


def test_a_sheet_is_the_same_after_its_trip_through_the_folder(tmp_path):
    keep(SHEET, tmp_path)
    written = (tmp_path / "report.json").read_bytes()
    again = kept(tmp_path)
    assert markdown(again).replace("`", "") == markdown(SHEET).replace("`", "") and len(again.pictures) == 2
    keep(again, tmp_path)
    assert (tmp_path / "report.json").read_bytes() == written
    (tmp_path / "report.json").write_text('{"blocks": [{"of": "another version"}]}')
    assert kept(tmp_path) is None and kept(tmp_path / "nothing") is None


def test_no_text_is_markup_and_what_steers_terminals_is_written_out():
    made = page.render(SHEET, kept_answers.to_table(FOUR), MORE)
    assert made.count("<script") == 2 and "<script>alert" not in made and "&lt;script&gt;alert(1)" in made
    assert not any(sign in made for sign in ("\x1b", "\u202e")) and r"\u001b[31m\u202e" in made
    assert "default-src &#39;none&#39;; style-src &#39;sha256-" in made and "http://" not in made.replace(
        "http://www.w3.org/", ""
    )


def test_every_text_is_held_once_and_too_many_questions_are_left_out_and_counted():
    rows = [row for number in range(50) for row in pair(number % 5, True, True)]
    data, left_out = page.packed(kept_answers.to_table(rows))
    told = json.loads(gzip.decompress(base64.b64decode(data)))
    assert (len(told["rows"]), len(told["documents"]), len(told["lists"]), left_out) == (100, 6, 5, 0)
    many = kept_answers.to_table([row for number in range(500) for row in pair(number, True, True)])
    small, left_out = page.packed(many, 4000)
    kept_ids = [question[0] for question in json.loads(gzip.decompress(base64.b64decode(small)))["questions"]]
    assert len(small) <= 4000 and 0 < left_out == 500 - len(kept_ids)


def test_curves_are_what_was_measured_at_steps_and_pauses_are_left_out_of_the_timeline(tmp_path):
    lines = [
        {"time": 10.0, "phase": "span", "name": "data", "seconds": 10.0},
        *({"time": 20.0, "phase": "train", "step": n, "steps": 2, "loss": 1.0 / n, "grad_norm": 2.0} for n in (1, 2)),
        {"time": 9000.0, "phase": "span", "name": "train", "seconds": 100.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = page.beside(tmp_path)
    assert [(one.title, [mark.y for mark in one.series[0].marks]) for one in found.curves] == [
        ("loss", [1.0, 0.5]),
        ("grad norm", [2.0, 2.0]),
    ]
    assert found.bars == [Bar("run", "data", 0.0, 10.0), Bar("run", "train", 10.0, 110.0)]


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of some answers; at the end the console must have stayed silent."""
    contexts, said = [], []

    def open_(rows=FOUR, sheet=SHEET, **how):
        path = page.save(tmp_path / "report.html", page.render(sheet, kept_answers.to_table(rows), MORE))
        contexts.append(browser.new_context(offline=True, **{"viewport": {"width": 1200, "height": 900}, **how}))
        tab = contexts[-1].new_page()
        for event in ("console", "pageerror", "dialog", "requestfailed"):
            tab.on(event, lambda one, event=event: said.append((event, str(one))))
        tab.goto(path.as_uri())
        tab.wait_for_selector("#filters:not([hidden])")
        return tab

    yield open_
    for context in contexts:
        context.close()
    assert said == []


def cards(tab):
    return tab.eval_on_selector_all("article", "all => all.map(one => one.dataset.id)")


def test_questions_are_filtered_by_outcome_condition_models_and_words(opened):
    tab = opened()
    assert cards(tab) == ["q0", "q1", "q2", "q3", "q4"]
    wanted = {"fixed": ["q0"], "broken": ["q1"], "kept": ["q2"], "wrong": ["q3", "q4"]}
    for outcome, ids in (wanted | {"misled": ["q3"], "abstained": ["q4"], "all": cards(tab)}).items():
        tab.check(f"input[value={outcome}]")
        assert cards(tab) == ids and tab.text_content(f"#n-{outcome}") == str(len(ids))
    tab.select_option("#condition", label="template attack")
    assert cards(tab) == ["q3", "q4"]
    tab.select_option("#condition", label="all")
    tab.fill("#search", "F2(SIZE")  # in a document
    tab.locator("article").nth(1).wait_for(state="detached")
    assert cards(tab) == ["q2"] and "1 to 1 of 1" in tab.text_content("#count")
    tab.fill("#search", "")
    tab.locator("article").nth(4).wait_for()
    tab.select_option("#before", label="RAFT")
    tab.select_option("#after", label="base")
    tab.check("input[value=fixed]")
    assert cards(tab) == ["q1"]


def test_documents_are_shown_as_text_with_forgeries_marked(opened):
    tab = opened()
    card = tab.locator("article").first
    assert "2 documents shown: 1 oracle, 1 forged" in card.locator("details.list summary").inner_text()
    card.locator("details.list summary").click()
    card.locator(".document.forged").wait_for()
    oracle = card.locator(".document.oracle pre").inner_text()
    assert oracle == f"f0(size=1) {visible(HOSTILE)}" and "<script>alert(1)</script>" in oracle
    assert card.locator(".document.forged .tag").inner_text() == "forged"
    assert tab.locator("script").count() == 2


def test_the_keyboard_reaches_filters_documents_and_pages(opened):
    tab = opened([row for number in range(45) for row in pair(number, False, number % 2)])
    tab.focus("input[value=all]")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("document.activeElement.value") == "fixed" and tab.text_content("#n-fixed") == "22"
    assert "1 to 20 of 22" in tab.text_content("#count")
    outline = "getComputedStyle(document.activeElement.closest('label')).outlineStyle"
    assert tab.evaluate(outline) == "solid"
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.tagName") == "SUMMARY"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.parentElement.open") is True
    tab.focus("#next")
    tab.keyboard.press("Enter")
    assert "21 to 22 of 22" in tab.text_content("#count") and tab.is_disabled("#next")


def test_a_phone_scrolls_down_only_and_every_field_has_a_name(opened):
    tab = opened(viewport={"width": 360, "height": 740})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    unnamed = "all => all.filter(one => !one.labels.length).length"
    assert tab.eval_on_selector_all("input, select", unnamed) == 0
    assert tab.eval_on_selector_all("th", "all => all.filter(one => !one.scope).length") == 0
    assert tab.locator("h1").count() == 1


def test_the_page_of_one_model_alone_shows_its_answers(opened):
    """As `evaluate` makes it: nothing is before."""
    tab = opened([row for row in FOUR if row.model == "RAFT"], viewport={"width": 390, "height": 844})
    assert cards(tab) == ["q0", "q1", "q2", "q3", "q4"]
    for outcome, ids in {"kept": ["q0", "q2"], "misled": ["q3"], "abstained": ["q4"]}.items():
        tab.check(f"input[value={outcome}]")
        assert cards(tab) == ids
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_of_a_sweep_fits_a_phone_and_names_its_best(opened):
    sweep = summarise("raft", [trial(n / 5, 0.5 + n / 20, 0.4) for n in range(6)], SweepConfig(objective="clean"))
    answers = [replace(row, model=f"oracle_fraction={n / 5:g}") for n in range(6) for row in pair(n, n % 2, n % 2)[1:]]
    tab = opened(answers, report.sheet(sweep), viewport={"width": 390, "height": 844})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert "oracle_fraction=1" in tab.text_content(".lead") and tab.locator(".picture").count()
    assert not tab.eval_on_selector_all(".picture svg", "all => all.filter(one => !one.clientWidth).length")


def contrast(tab, selector):
    """WCAG's contrast of a text to the page's paper."""
    colours = tab.eval_on_selector(
        selector, "one => [getComputedStyle(one).color, getComputedStyle(document.body).backgroundColor]"
    )
    light = []
    for colour in colours:
        parts = [int(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_can_be_read_pictures_too(scheme, opened):
    tab = opened(color_scheme=scheme)
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is (scheme == "light")
    for selector in (".lead", ".about", "td small", "a[href='#results']", "thead th", "summary"):
        assert contrast(tab, selector) >= 4.5, selector
    ink = tab.eval_on_selector(".picture text", "one => getComputedStyle(one).fill")
    assert ink == tab.evaluate("getComputedStyle(document.body).color")


def test_ten_thousand_answers_open_within_two_seconds_and_20_megabytes(opened, tmp_path):
    """Each answer with five documents of some 1,500 characters, of which 2,500 are different ones."""
    texts = [f"{number} " + " ".join(str(number * step % 9973) for step in range(1, 300)) for number in range(2500)]
    rows = []
    for number in range(5000):
        listed = [(number * 7 + step * 331) % 2500 for step in range(5)]
        documents = tuple(Shown(f"d{at}", texts[at], "distractor", f"c{at}") for at in listed)
        rows += [replace(row, documents=documents) for row in pair(number, number % 3 == 0, number % 2 == 0)]
    tab = opened(rows, SHEET)
    size = (tmp_path / "report.html").stat().st_size
    took = []
    for _ in range(3):  # on a machine that is busy with others' work the least is the page's own
        begin = time.perf_counter()
        tab.reload()
        tab.wait_for_selector("article")
        took.append(time.perf_counter() - begin)
    assert size < 20_000_000 and min(took) < 2, (size, took)
    begin = time.perf_counter()
    tab.fill("#search", "1234 ")
    tab.locator("#count", has_not_text="5000").wait_for()
    assert time.perf_counter() - begin < 2
