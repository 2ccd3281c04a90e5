"""Documents by the names that people give them, and a word about those that are not there."""

import unicodedata

import pytest

from ragdist.data.sources.files import Broken
from ragdist.data.sources.naming import Named, Names, of_documents, resolved
from ragdist.errors import DataError
from ragdist.records import Document, Question

KOREAN, GERMAN, JAPANESE = "가마", "Öfen", "ガス窯"


def decomposed(name):
    return unicodedata.normalize("NFD", name)


FILES = Names(
    [
        Named("kiln", "sub/kiln.txt", "sub/kiln", "The large kiln"),
        Named("shop", "shop.md", "shop"),
        Named("korean", f"{decomposed(KOREAN)}.txt", decomposed(KOREAN)),
        Named("german", f"hilfe/{GERMAN}.html", f"hilfe/{GERMAN}"),
        Named("japanese", f"{decomposed(JAPANESE)}.pdf", decomposed(JAPANESE)),
        Named("greek", "\u0390.txt", "\u0390"),
        Named("upper", "Guide.TXT", "Guide"),
        Named("one", "a/notes.txt", "a/notes"),
        Named("two", "b/notes.txt", "b/notes"),
        Named("percent", "50%20off.txt", "50%20off"),
        Named("row 1", "faq.jsonl", "Opening hours"),
        Named("row 2", "faq.jsonl", "Prices"),
        Named("row 3", "faq.jsonl", "Prices"),
    ],
    "documents",
)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("sub/kiln.txt", "kiln"),
        ("sub/kiln", "kiln"),
        ("sub\\kiln.txt", "kiln"),
        (".\\sub\\kiln.txt", "kiln"),
        ("./sub/kiln.txt", "kiln"),
        ("../documents/sub/kiln.txt", "kiln"),
        ("documents/sub/kiln.txt", "kiln"),
        ("Documents\\Sub\\Kiln.TXT", "kiln"),
        ("/home/ada/documents/sub/kiln.txt", "kiln"),
        ("C:\\Users\\ada\\documents\\sub\\kiln.txt", "kiln"),
        ("s3://bucket/documents/sub/kiln.txt", "kiln"),
        ("file:///srv/documents/sub/kiln.txt", "kiln"),
        ("/sub/kiln.txt", "kiln"),
        ("sub//kiln.txt", "kiln"),
        ("kiln.txt", "kiln"),
        ("kiln", "kiln"),
        ("  sub/kiln.txt\n", "kiln"),
        ("\ufeffsub/kiln.txt", "kiln"),
        ("sub%2Fkiln.txt", "kiln"),
        ("sub/kiln.txt#page=2", "kiln"),
        ("sub/kiln.pdf", "kiln"),
        ("The large kiln", "kiln"),
        ("SHOP.MD", "shop"),
        ("guide.txt", "upper"),
        ("\u0390".upper() + ".TXT", "greek"),
        (f"{KOREAN}.txt", "korean"),
        (KOREAN, "korean"),
        ("%EA%B0%80%EB%A7%88.txt", "korean"),
        (f"documents/{KOREAN}.txt", "korean"),
        (f"hilfe/{decomposed(GERMAN)}.html", "german"),
        (f"HILFE/{GERMAN.upper()}.HTML", "german"),
        (f"{JAPANESE}.pdf", "japanese"),
        ("50%20off.txt", "percent"),
        ("opening hours", "row 1"),
        ("Prices", "row 2 row 3"),
        ("faq.jsonl", "row 1 row 2 row 3"),
        ("documents/faq.jsonl", "row 1 row 2 row 3"),
        ("a/notes.txt", "one"),
        ("notes.txt", ""),
        ("c/notes.txt", ""),
        ("other/sub/kiln.txt", ""),
        ("kil.txt", ""),
        ("", ""),
        ("documents", ""),
    ],
)
def test_document_is_found_however_its_name_is_written_if_it_is_the_only_one(name, found):
    """T12"""
    ids = FILES.find(name)
    assert " ".join(sorted(ids)) == found


def question(*names, near=()):
    return Question(id="q", text="Q?", answers=("x",), oracle_ids=names, split="train", near_miss_ids=near)


def test_name_of_no_document_is_said_with_the_nearest_names():
    """T12: all at once, and the run stops; or the questions are left out and named. Never silently no oracle."""
    asked = [question("sub/kilm.txt"), question("shop.md"), question("sub/kiln.txt", "no such")]
    with pytest.raises(
        DataError, match=r"'sub/kilm\.txt'.*nearest are 'sub/kiln\.txt'.*'no such'.*corpus\.broken=skip"
    ):
        list(resolved(asked, FILES, Names([], "d"), Broken("stop", []), "documents"))
    named = []
    found = list(resolved(asked, FILES, Names([], "d"), Broken("skip", named), "documents"))
    assert [one.oracle_ids for one in found] == [("shop",)]
    assert len(named) == 2 and "kilm" in named[0] and "no such" in named[1]


def test_document_that_was_left_out_is_not_called_missing():
    """T12: it is in the folder, but could not be read or nearly repeats another one."""
    named = []
    there = Names([Named("torn.pdf", "torn.pdf")], "documents")
    assert not list(resolved([question("torn.pdf")], FILES, there, Broken("skip", named), "documents"))
    assert "is not used" in named[0]


def test_named_distractors_are_found_as_well():
    """T12: and one that is golden too is no distractor."""
    (found,) = resolved(
        [question("kiln", near=("Prices", "./sub/kiln.txt"))], FILES, FILES, Broken("stop", []), "documents"
    )
    assert found.oracle_ids == ("kiln",) and found.near_miss_ids == ("row 2", "row 3")


def test_copy_that_was_left_out_is_found_by_its_own_name():
    """T25: as the document that it repeats; not where that was left out in its turn."""
    first = Document(id="1", title="a", text="x", source="a.txt")
    names = of_documents([first], [("b/copy.txt", "b/copy", "1"), ("c.txt", "c", "gone")], "documents")
    assert names.find("B/Copy.txt") == names.find("a") == {"1"}
    assert not names.find("c.txt")
