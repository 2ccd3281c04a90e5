# ruff: noqa: RUF001
"""Values as people write them, and what stands unseen at the ends of a text."""

import json
from decimal import Decimal

import pytest

from ragdist.data.sources.files import as_json
from ragdist.data.sources.values import missing, trimmed, written


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        ("false", "False"),
        ("true", "True"),
        ("0", "0"),
        ("0.0", "0"),
        ("-0.0", "0"),
        ("4.0", "4"),
        ("3.10", "3.10"),
        ("1e3", "1000"),
        ("1e-7", "1e-7"),
        ("0.1", "0.1"),
        ("12345678901234567890", "12345678901234567890"),
        ('" K2\\n"', "K2"),
        ('""', ""),
        ("null", None),
        ("NaN", None),
        ("Infinity", None),
        ("1e400", None),
        ("[]", None),
        ("{}", None),
    ],
)
def test_value_of_a_file_is_written_as_a_person_would(literal, text):
    """T14: numbers as they stand, whole ones without the `.0` that tables give them."""
    assert written(as_json(literal)) == text


def test_numbers_of_tables_and_other_truths():
    """T14"""
    assert [written(value) for value in (4.0, 2.5, Decimal("2.50"), Decimal("7.00"))] == ["4", "2.5", "2.50", "7"]
    assert [written(value, ("no", "yes")) for value in (False, True, 0, "False")] == ["no", "yes", "0", "False"]


def test_nothing_is_null_or_nan():
    """T14"""
    assert [missing(json.loads(text)) for text in ("null", "NaN", "0", "false", '""')] == [True, True] + [False] * 3


@pytest.mark.parametrize(
    "ends",
    [
        " ",
        "\n",
        "\t\r\n",
        "\ufeff",
        "\u200b",
        "\u00a0",
        "\u3000",
        "\u200e\u200f",
        "\u2060",
        "\u00ad",
        "\0",
        "\u202a",
        "\u200c",
        "\u3164",
    ],
)
@pytest.mark.parametrize("text", ["K2", "山田 太郎", "نعم", "서울", "a\u200bb  c"])
def test_text_loses_what_is_unseen_at_its_ends_alone(ends, text):
    """T16"""
    assert trimmed(ends + text + ends * 2) == text
    assert trimmed(ends) == ""


@pytest.mark.parametrize(
    "text", ["\u0d28\u0d4d\u200d", "\u0600١٢", "🏴\U000e0067\U000e0062\U000e007f", "❤\ufe0f", "e\u0301"]
)
def test_signs_that_are_seen_stay(text):
    """T16: a joiner after a virama, a sign over Arabic numbers, the end of a flag, marks."""
    assert trimmed(f" {text} ") == text
