"""`ragdist report`: one run's page, or several runs question by question, as a person calls it."""

import json
from pathlib import Path

import pytest

from ragdist import cli
from ragdist.evaluation import kept_answers
from ragdist.evaluation.sheet import Sheet, keep
from tests.evaluation.test_kept_answers import answer


def run(folder, right, condition="oracle", sheet=True, **more):
    """A run whose tuned model has these of 120 questions right, beside a model that has none."""
    folder.mkdir()
    rows = [
        answer(
            **{"question_id": f"q{n}", "question": f"What is f{n}?", "condition": condition, "model": model},
            **{"answer": f"{model} \x1b[31m {n}", "subspan_em": float(model == "tuned" and n in right), **more},
        )
        for model in ("base", "tuned")
        for n in range(120)
    ]
    kept_answers.write(rows, folder)
    if sheet:
        keep(Sheet([], {}, "a run"), folder)
    return str(folder)


def ragdist(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", *arguments])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_one_run_gets_its_page_and_its_path_is_printed(tmp_path, capsys):
    folder = run(tmp_path / "one", range(60))
    code, out, _ = ragdist(capsys, folder)
    assert (
        code == 0
        and out == f"{folder}/report.html\n"
        and "<h1>a run</h1>" in (tmp_path / "one/report.html").read_text()
    )


def test_two_runs_are_paired_by_question_and_every_flip_is_named(tmp_path, capsys):
    """By hand: 10 to 69 are right in the first, 0 to 89 in the second: 30 of 120 fixed, none broken."""
    first, second = run(tmp_path / "first", range(10, 70)), run(tmp_path / "second", range(90))
    code, out, _ = ragdist(capsys, first, second, "--json")
    (pair,) = json.loads(out)["pairs"]
    assert code == 0 and (pair["rows"], pair["change"]["mean"], pair["shown"]) == (120, pytest.approx(0.25), True)
    assert pair["change"]["low"] > 0.17 and pair["same_documents"] == 120
    fixed = {flip["question_id"] for flip in pair["flips"] if flip["fixed"]}
    assert fixed == {f"q{n}" for n in (*range(10), *range(70, 90))} and len(pair["flips"]) == 30
    assert pair["flips"][0]["said_after"] == "tuned \x1b[31m 0" and "\x1b" not in out


def test_the_table_and_the_page_of_a_comparison(tmp_path, capsys):
    folders = run(tmp_path / "first", range(60)), run(tmp_path / "second", range(1, 62))
    code, out, err = ragdist(capsys, *folders, "--output", str(tmp_path / "both.html"))
    assert code == 0 and "2 / 1" in out and "What is f0?" in out and "\x1b" not in out and "both.html" in err
    assert "second against first" in (tmp_path / "both.html").read_text()
    code, out, _ = ragdist(capsys, *folders, "--model", "base", "--json")
    assert json.loads(out)["pairs"][0]["change"]["mean"] == 0


def test_wrong_input_is_one_line_and_code_2(tmp_path, capsys):
    good, other = run(tmp_path / "good", [1]), run(tmp_path / "other", [1], condition="absent")
    (tmp_path / "empty").mkdir()
    bare, half = (run(tmp_path / name, [1], sheet=False) for name in ("bare", "half"))
    for folder, state in ((bare, "finished"), (half, "failed")):
        (Path(folder) / "state.json").write_text(json.dumps({"job": "raft", "state": state, "time": 1}))
    for arguments, said in (
        ([str(tmp_path / "nowhere")], "nowhere"),
        ([str(tmp_path / "empty")], "has no report.json to show: it is no run's folder"),
        ([bare], "has no report.json to show: another version of ragdist finished it"),
        ([half], "the run is failed; finish it with the command that began it"),
        ([good, str(tmp_path / "empty")], "has no answers.parquet"),
        ([good, other], "no question under the same condition in common"),
        ([good, good], "named twice"),
        ([good, bare, "--model", "x"], "has no model 'x'; it has 'base', 'tuned'"),
        ([good, bare, "--open"], "--output"),
    ):
        code, _, err = ragdist(capsys, *arguments)
        assert code == 2 and said in err and err.count("\n") == 1, (arguments, err)
