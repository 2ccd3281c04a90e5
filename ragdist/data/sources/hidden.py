"""What a web page's markup and its own style sheets keep from being shown: `hidden`, `display` and `visibility`.

Style sheets in other files are not read, and no script is run: what a click would open is as hidden as it is at first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import tinycss2

PROPERTIES = ("display", "visibility")
SCREENS = frozenset({"", "all", "screen", "only screen"})
"""Media for which a style sheet counts."""


class _Weight(NamedTuple):
    """Which of two declarations wins in CSS: the greater one. Example: _Weight(False, 1, (0, 1, 0), 7)."""

    important: bool
    origin: int
    """0 the browser's own, 1 the page's style sheets, 2 an element's `style`."""
    specificity: tuple[int, int, int]
    """Ids, classes, types in the selector."""
    number: int


def remove(soup: Any) -> None:
    """Takes out of a parsed page what is not shown; `visibility` may be given back to what stands inside."""
    decided: dict[int, dict[str, tuple[_Weight, str]]] = {}
    for tag, name, value, weight in _declarations(soup):
        found = decided.setdefault(id(tag), {})
        if name not in found or found[name][0] <= weight:
            found[name] = weight, value
    for tag in soup.find_all(lambda tag: _value(decided, tag, "display") == "none"):
        if not tag.decomposed and not _is_pictured(tag):
            tag.decompose()
    changed = any("visibility" in found for found in decided.values())
    for text in soup.find_all(string=True) if changed else ():
        values = (_value(decided, parent, "visibility") for parent in text.parents)
        if next(filter(None, values), "visible") in ("hidden", "collapse"):
            text.extract()


def _value(decided: dict[int, dict[str, tuple[_Weight, str]]], tag: Any, name: str) -> str:
    return decided.get(id(tag), {}).get(name, (None, ""))[1]


def _is_pictured(tag: Any) -> bool:
    """Whether this is a formula for those who do not see the picture beside it, as Wikipedia has them."""
    return tag.find("math") is not None and tag.find_next_sibling("img") is not None


def _declarations(soup: Any) -> Iterator[tuple[Any, str, str, _Weight]]:
    """(element, property, value, weight) of all that is said of display and visibility."""
    for tag in soup.select("[hidden]:not([hidden=until-found i]), dialog:not([open])"):
        yield tag, "display", "none", _Weight(False, 0, (0, 0, 0), 0)
    number = 0
    names = {name for tag in soup.find_all(True) for name in (*tag.get_attribute_list("class"), tag.get("id"))}
    for sheet in soup.find_all("style"):
        if str(sheet.get("media", "")).strip().lower() in SCREENS:
            for rule in _rules(tinycss2.parse_stylesheet(sheet.get_text(), True, True)):
                number += 1
                yield from _of_rule(soup, rule, number, names)
    for tag in soup.find_all(style=True):
        for name, value, important in _said(tinycss2.parse_blocks_contents(tag["style"], True, True)):
            yield tag, name, value, _Weight(important, 2, (0, 0, 0), 0)


def _rules(found: Iterable[Any]) -> Iterator[Any]:
    for rule in found:
        if rule.type == "qualified-rule":
            yield rule
        elif rule.type == "at-rule" and rule.content is not None and _counts(rule):
            yield from _rules(tinycss2.parse_rule_list(rule.content, True, True))


def _counts(rule: Any) -> bool:
    """Whether a browser heeds what stands in this at-rule: layers, features that it has, media that are its screen."""
    said = tinycss2.serialize(rule.prelude).strip().lower()
    if rule.lower_at_keyword == "supports":
        return not said.startswith("not")
    return rule.lower_at_keyword == "layer" or (rule.lower_at_keyword == "media" and said in SCREENS)


def _of_rule(soup: Any, rule: Any, number: int, names: set[str | None]) -> Iterator[tuple[Any, str, str, _Weight]]:
    """As `_declarations`, of one rule; `names` are the classes and ids of the page, and most rules are for others."""
    from soupsieve import SelectorSyntaxError

    said = list(_said(tinycss2.parse_blocks_contents(rule.content, True, True)))
    for selector in _selectors(rule.prelude) if said else ():
        if not _named(selector) <= names:
            continue
        try:
            tags = soup.select(tinycss2.serialize(selector))
        except (SelectorSyntaxError, NotImplementedError):  # such as ::before, which is no element
            continue
        for tag in tags:
            for name, value, important in said:
                yield tag, name, value, _Weight(important, 1, _specificity(selector), number)


def _said(declarations: Iterable[Any]) -> Iterator[tuple[str, str, bool]]:
    for declaration in declarations:
        if declaration.type == "declaration" and declaration.lower_name in PROPERTIES:
            yield declaration.lower_name, tinycss2.serialize(declaration.value).strip().lower(), declaration.important


def _selectors(prelude: list[Any]) -> Iterator[list[Any]]:
    """The parts of a selector list between its commas."""
    one: list[Any] = []
    for token in prelude:
        if token == ",":
            yield one
            one = []
        else:
            one.append(token)
    yield one


def _named(selector: list[Any]) -> set[str]:
    """The classes and ids that an element and those around it must have to be meant."""
    ids = {token.value for token in selector if token.type == "hash"}
    return ids | {after.value for dot, after in pairwise(selector) if dot == "." and after.type == "ident"}


def _specificity(selector: list[Any]) -> tuple[int, int, int]:
    kinds = [token.type if token.type != "literal" else token.value for token in selector]
    ids, classes = kinds.count("hash"), kinds.count(".") + kinds.count("[] block") + kinds.count(":")
    return ids, classes, max(0, kinds.count("ident") - kinds.count(".") - kinds.count(":"))
