"""What each test needs. What the table names is marked, a folder or module whole; the rest is done in a moment.

make quick        what is in no line: no Ray, no model, nothing that takes seconds
make test         and `model` and `long`
make test-all     and `cluster`; then broken input, those of vLLM and of several machines
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.pop("COLUMNS", None)  # tables are as wide as where nobody set it
settings.register_profile("patient", deadline=None)  # pytest-timeout bounds a test; a busy machine slows an example
settings.load_profile("patient")
TESTS = Path(__file__).parent
FAULTS = ("settings", "arguments", "questions", "runs", "models", "teacher", "manifests")
NEEDS = {
    "model": (
        *("algo", "lm", "gpu", "serving", "plan/test_memory.py", "plan/test_shape.py", "plan/test_measured.py"),
        *("data/test_thoughts.py", "data/sources/test_hub.py", "data/sources/test_hub_sets.py"),
        "data/sources/test_given.py",
        *("data/retrieval/test_dense.py", "data/test_pipeline_retrieval.py"),
        *("systems/atm/test_run.py", "systems/atm/test_mito.py", "systems/atm/test_training_rows.py"),
        *("systems/duet/test_arbiters.py", "systems/duet/test_run.py", "systems/test_settled.py"),
        *("teacher/test_local.py", "teacher/test_endpoint.py"),
        *(
            "test_answer_tokens.py",
            "test_card.py",
            "test_cli.py",
            "test_docs_run.py",
            "test_export.py",
            "test_own_parts.py",
            "test_sweeping.py",
            "evaluation/test_suite_run.py",
            "evaluation/test_service.py",
        ),
    ),
    "long": (
        *("tracking/test_clients.py", "tracking/test_mirror.py", "data/sources/test_renderings.py"),
        *("data/test_pipeline_documents.py", "data/sources/test_apidocs.py", "test_local.py", "kube/test_elsewhere.py"),
        *("data/test_audit.py", "data/test_trained_rows.py", "sweeps/test_summary.py", "evaluation/test_summary.py"),
        *("test_site.py", "faults/test_cases.py"),
        *("evaluation/test_page.py", "systems/atm/test_mixing.py", "data/test_distractors.py", "kube/test_client.py"),
        "data/test_template_attack.py::test_template_forgery_is_told_by_nothing_but_its_claim",
        "data/test_template_attack.py::test_forge_real_questions_states_the_wrong_answer",
        "evaluation/test_robustness.py::test_pictures_are_drawn_with_every_number",
        "evaluation/test_sheet.py::test_nothing_of_a_picture_overlaps_or_is_cut_off",
        "kube/test_check.py::test_whatever_shape_an_object_has_it_is_read",
        "data/retrieval/test_bm25.py::test_search_does_not_depend_on_workers_or_order_of_chunks",
        "data/sources/test_corpus.py::test_documents_are_the_same_for_any_mapper",
        "data/test_export.py::test_card_of_a_benchmark_says_what_the_benchmark_says_of_itself",
        "data/test_prompts.py::test_user_text_with_any_documents_parses_back",
        "data/test_prompts.py::test_document_cannot_close_its_wrapper_or_be_another",
        "evaluation/test_apicalls.py::test_every_own_answer_of_apibench_is_right_and_an_invented_name_is_made_up",
        "plan/test_seats.py::test_this_machine_is_as_psutil_sees_it",
        "systems/atm/test_forging.py::test_forgery_begins_as_any_listed_document_with_equal_chance_and_one_for_all_samples",
        "systems/duet/test_summary.py::test_picture_is_a_png_with_something_in_it",
        "test_first_hour.py::test_U15_commands_are_completed",
        "test_first_hour.py::test_U6_U10_data_errors_come_before_heavy_imports",
        "test_results.py::test_every_system_is_concluded_and_shown_alike",
        "plan/test_layout.py::test_command_prints_tables_and_json_and_exits_2",
        "plan/test_layout.py::test_help_fits_a_screen_and_nothing_heavy_is_loaded",
        "test_first_hour.py::test_U11_a_folder_that_cannot_be_made_is_one_line",
        "test_first_hour.py::test_U11_home_is_expanded_and_flash_attention_on_a_cpu_is_refused",
        "tracking/test_run.py::test_run_folder_is_locked_against_another_process",
        "tracking/test_run.py::test_a_killed_run_is_listed_as_killed_and_goes_on",
    ),
    "vllm": ("vllm",),
    "kills": ("kills", "multinode/test_random.py"),
    "faults": tuple(f"faults/test_{name}.py" for name in FAULTS),
    "apiserver": ("apiserver",),
    "image": ("image",),
    "cluster": (
        "systems/atm/test_adapters.py",
        "test_reproducing.py::test_rows_are_trained_once_judged_alike_and_shown_beside_what_was_published",
        "systems/atm/test_run.py::test_a_round_by_paged_is_the_round_by_transformers",
        "lm/test_engines.py::test_side_writes_by_paged_what_it_writes_by_transformers_round_after_round",
        *(
            f"lm/test_adapters.py::test_{name}"
            for name in (
                "two_over_one_base_are_two_apart_to_the_bit",
                "adapter_that_learned_goes_on_like_one_that_was_loaded",
            )
        ),
        *("cluster", "multinode", "parity", "kube/test_start.py", "lm/test_resident.py"),
        "lm/test_adapter_ranks.py",
        *(
            "test_notebook.py",
            "test_runs.py",
            "test_retrieval_runs.py",
            "test_sweeps.py",
            "test_your_documents.py",
            "test_wheel.py",
        ),
    ),
}


def need(path: Path, test: str = "") -> str:
    """The marker of all tests in this file or folder, or of one; the longest line decides; empty for the quick ones."""
    inside = path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else ""
    inside += f"::{test}" * bool(test)
    found = {
        place: name
        for name, places in NEEDS.items()
        for place in places
        if inside == place or inside.startswith((f"{place}/", f"{place}::"))
    }
    return found[max(found, key=len)] if found else ""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out files whose tests `-m` leaves out anyway: importing torch for nothing takes seconds."""
    name = need(collection_path)
    return True if name and re.search(rf"\bnot {name}\b", config.option.markexpr) else None


def pytest_itemcollected(item: pytest.Item) -> None:
    if name := need(item.path, getattr(item, "originalname", item.name)):
        item.add_marker(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Half characters that tests log are written out: pytest-xdist cannot send them."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
