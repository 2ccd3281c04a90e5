"""Equations on one line, as people type them: of Word (OMML) and of web pages (MathML). Example: `E=mc^2`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any

from ragdist.data.matching import flat

SUPERSCRIPTS = dict(zip("0123456789+-\u2212=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ", strict=True))
_STYLED = re.compile("[\U0001d400-\U0001d7ff]+")
_UNSEEN = dict.fromkeys((0x2061, 0x2062, 0x2063, 0x2064))
"""Signs for "applied to", "times", "and", which are not drawn."""


def raised(text: str) -> str:
    """A superscript by the characters that Unicode has for it: 10 with raised 6 is not 106; else as it is (`th`)."""
    small = text.strip()
    return "".join(map(SUPERSCRIPTS.get, small)) if small and all(c in SUPERSCRIPTS for c in small) else text  # type: ignore[arg-type]


def linear(equation: Any) -> str:
    """The equation, an lxml element of OMML or MathML, on one line."""
    text = _STYLED.sub(lambda found: unicodedata.normalize("NFKC", found[0]), _of(equation))
    return flat(text.translate(_UNSEEN))


def _of(node: Any) -> str:
    name = _name(node)
    if name.endswith("Pr") or name.startswith("annotation") or name == "mphantom":
        return ""
    if name in _OMML:
        return _OMML[name](node)
    children = _children(node)
    texts = list(map(_of, children))
    if name in _MATHML and len(children) == _MATHML[name][0]:
        return _MATHML[name][1](*texts)
    if name == "msqrt":
        return _root("".join(texts))
    if name in ("mtr", "mr"):
        return ", ".join(texts)
    if name in ("mtable", "m", "eqArr"):
        return "; ".join(filter(None, texts))
    return "".join(texts) if children else node.text or ""


def _name(node: Any) -> str:
    """The element's name without its namespace."""
    return str(node.tag).rpartition("}")[2].rpartition(":")[2]


def _children(node: Any) -> list[Any]:
    return [child for child in node if isinstance(child.tag, str)]


def _one(text: str) -> str:
    """The text in brackets, unless it is one number, name or bracket."""
    text = text.strip()
    single = re.fullmatch(r"\w*|[^\w\s]|\([^()]*\)", text.translate(_UNSEEN))
    return text if single else f"({text})"


def _fraction(above: str, below: str) -> str:
    return f"{_one(above)}/{_one(below)}"


def _power(base: str, above: str) -> str:
    return f"{base.strip()}^{_one(above)}" if above.strip() else base


def _index(base: str, below: str) -> str:
    return f"{base.strip()}_{_one(below)}" if below.strip() else base


def _both(base: str, below: str, above: str) -> str:
    return _power(_index(base, below), above)


def _root(inside: str, degree: str = "") -> str:
    return f"{raised(degree)}√{_one(inside)}"


_MATHML: dict[str, tuple[int, Callable[..., str]]] = {
    "mfrac": (2, _fraction),
    "msup": (2, _power),
    "mover": (2, _power),
    "msub": (2, _index),
    "munder": (2, _index),
    "msubsup": (3, _both),
    "munderover": (3, _both),
    "mroot": (2, _root),
}
"""Parts that an element has, and what is made of them."""


def _part(node: Any, name: str) -> str:
    return "".join(_of(child) for child in _children(node) if _name(child) == name)


def _parts(node: Any, name: str) -> list[str]:
    return [_of(child) for child in _children(node) if _name(child) == name]


def _property(node: Any, name: str, default: str) -> str:
    """The value of a property that an element of OMML has in its `...Pr`."""
    said = (each for child in _children(node) if _name(child).endswith("Pr") for each in child if _name(each) == name)
    return next((value for each in said for key, value in each.attrib.items() if key.endswith("}val")), default)


def _brackets(node: Any) -> str:
    inside = _property(node, "sepChr", "|").join(_parts(node, "e"))
    return f"{_property(node, 'begChr', '(')}{inside}{_property(node, 'endChr', ')')}"


def _sum(node: Any) -> str:
    sign = _both(_property(node, "chr", "\u222b"), _part(node, "sub"), _part(node, "sup"))
    return f"{sign} {_part(node, 'e')}"


_OMML: dict[str, Callable[[Any], str]] = {
    "f": lambda node: _fraction(_part(node, "num"), _part(node, "den")),
    "sSup": lambda node: _power(_part(node, "e"), _part(node, "sup")),
    "sSub": lambda node: _index(_part(node, "e"), _part(node, "sub")),
    "sSubSup": lambda node: _both(_part(node, "e"), _part(node, "sub"), _part(node, "sup")),
    "sPre": lambda node: _both("", _part(node, "sub"), _part(node, "sup")) + _part(node, "e"),
    "rad": lambda node: _root(_part(node, "e"), _part(node, "deg")),
    "nary": _sum,
    "d": _brackets,
    "func": lambda node: f"{_part(node, 'fName')} {_part(node, 'e')}",
    "limLow": lambda node: _index(_part(node, "e"), _part(node, "lim")),
    "limUpp": lambda node: _power(_part(node, "e"), _part(node, "lim")),
    "phant": lambda node: "" if _property(node, "show", "1") in ("0", "off", "false") else _part(node, "e"),
    "acc": lambda node: _part(node, "e") + _property(node, "chr", "\u0302"),
}
