"""Can forgeries be told from retrieved documents by how they look? A bag-of-words classifier tries.

Titles and first words are counted, logistic regression learns, questions are held out. With 200 documents of each
kind the area under the curve of a guess has a standard deviation of 0.03, a little more as documents of one question
are alike: 0.6 is more than three of them, and far below what a give-away brings.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from ragdist.data.prompts import Showable

CHANCE = 0.6
FIRST = 8
Kind = Sequence[tuple[str, Showable]]
"""(question id, document) of each."""

TOWNS = ("Arvik", "Belmor", "Casten", "Dorrin", "Elvath", "Farrow", "Gillen", "Hartmoor", "Ilsby", "Jorvale")
BUILT = ("mill", "harbour", "library", "bridge", "chapel", "museum", "brewery", "market hall", "observatory", "school")
BEGINS = (
    "The {built} of {town} was opened in {year} and stands on the river's left bank.",
    "In {year} the people of {town} built a {built}, which they use to this day.",
    "{town} is a small town in the north with a {built} that dates from {year}.",
    "Visitors often ask about the {built}. It was finished in {year} by the town of {town}.",
)
GOES_ON = (
    "Its walls are of grey stone.",
    "A fire destroyed the roof, which was soon repaired.",
    "The town council meets there twice a year.",
    "Some {number} people work in it.",
    "Dr. Meer, who lived nearby, wrote its history.",
)


def opening(document: Showable) -> str:
    """What the classifier sees."""
    return f"{document.title}\n{' '.join(document.text.split()[:FIRST])}"


def area(forged: Kind, retrieved: Kind, seen: Callable[[Showable], str] = opening) -> float:
    """Area under the curve on held-out questions, from 200 documents of each kind."""
    rng = random.Random(0)
    rows = [(one, label) for label, kind in enumerate((retrieved, forged)) for one in rng.sample([*kind], 200)]
    texts, labels, groups = [seen(doc) for (_, doc), _ in rows], [label for _, label in rows], [q for (q, _), _ in rows]
    model = make_pipeline(CountVectorizer(token_pattern=r"\w+|[^\w\s]", lowercase=False), LogisticRegression(C=0.3))
    said = cross_val_predict(model, texts, labels, groups=groups, cv=GroupKFold(5), method="decision_function")
    return float(roc_auc_score(labels, said))


def passage(number: int) -> tuple[str, str, str, str]:
    """(title, text, question, answer) of one of many little texts, each about another building."""
    rng = random.Random(number)
    town, built, year = f"{rng.choice(TOWNS)}{number}", rng.choice(BUILT), str(1500 + number)
    more = rng.sample(GOES_ON, rng.randrange(2, 5))
    text = " ".join((rng.choice(BEGINS), *more)).format(town=town, built=built, year=year, number=rng.randrange(9, 99))
    title = f"{built.capitalize()} of {town}" if rng.random() < 0.5 else town
    return title, text, f"when was the {built} of {town} built?", year
