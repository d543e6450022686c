"""A number as a person writes it, checked against the number that a notebook computed.

What may stand in the link's text: ``0.97``, ``97%``, ``1,024``, ``2.6×``, ``1.2e-7``, ``−0.4``, each alone or after a
relation (``>``, ``<``, ``≥``, ``≤``, ``≈``, ``about``, ``at least``, ``at most``, ``more than``, ``less than``), and
``10 of 12``. All arithmetic is decimal, on the digits that Python prints for the value: no binary rounding comes in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal, localcontext

Value = int | float | tuple[int | float, int | float]

_RELATIONS = {
    ">": ">", "more than": ">", "over": ">",
    "<": "<", "less than": "<", "under": "<",
    "≥": "≥", ">=": "≥", "at least": "≥",
    "≤": "≤", "<=": "≤", "at most": "≤",
    "≈": "≈", "~": "≈", "about": "≈",
    "": "=", "=": "=",
}  # fmt: skip
_WORDS = "|".join(re.escape(word) for word in sorted(_RELATIONS, key=len, reverse=True))
_NUMBER = r"[+−-]?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+−-]?\d{1,3})?"
_CLAIM = re.compile(
    rf"(?P<relation>{_WORDS})\s*(?P<number>{_NUMBER})(?P<unit>\s?(?:%|×|x))?(?:\s+of\s+(?P<total>{_NUMBER}))?",
    re.IGNORECASE,
)
_EXACT = Context(prec=10_000)  # more digits than any number that Python prints
GRAMMAR = "write it as 0.97, 97%, 1,024, 2.6×, 1.2e-7, 10 of 12, or after a relation: > 0.9, about 50"


@dataclass(frozen=True)
class Written:
    """A claim's text, taken apart."""

    prefix: str
    """The relation with the white space after it, as it stands in the text."""
    relation: str
    number: str
    unit: str
    total: str | None = None

    @property
    def shown(self) -> Decimal:
        """The number in the value's own unit: 97% is 0.97."""
        return _decimal(self.number).scaleb(-2 if self.percent else 0)

    @property
    def percent(self) -> bool:
        return self.unit.strip() == "%"

    @property
    def step(self) -> Decimal:
        """One unit of the last digit shown."""
        _, _, exponent = _decimal(self.number).as_tuple()
        assert isinstance(exponent, int)
        return Decimal(1).scaleb(exponent - (2 if self.percent else 0))

    @property
    def tolerance(self) -> str:
        """In words, what would have passed."""
        if self.relation == "=":
            return f"± {_plain(self.step / 2)}"
        if self.relation == "≈":
            return f"± {_plain(max(self.step, abs(self.shown) / 10))}"
        return f"{self.relation} {_plain(self.shown)}"


def read(text: str) -> Written | None:
    """Take a claim's text apart; None where it is no number."""
    match = _CLAIM.fullmatch(" ".join(text.split()))  # also spaces that do not break, and the end of a line
    if match is None:
        return None
    word, number, unit = match["relation"], match["number"], match["unit"] or ""
    prefix = match.string[: match.start("number")]
    return Written(prefix, _RELATIONS[word.casefold()], number, unit, match["total"])


def holds(written: Written, value: Value) -> bool:
    """Return whether the value rounds to the digits shown, or satisfies the relation."""
    if isinstance(value, tuple) or written.total is not None:
        if not isinstance(value, tuple) or written.total is None:
            return False
        part, total = value
        return _decimal(written.total) == _exact(total) and holds(replace(written, total=None), part)
    with localcontext(_EXACT):
        exact, shown = _exact(value), written.shown
        match written.relation:
            case "=":
                return abs(exact - shown) <= written.step / 2
            case "≈":
                return abs(exact - shown) <= max(written.step, abs(shown) / 10)
            case ">":
                return exact > shown
            case "<":
                return exact < shown
            case "≥":
                return exact >= shown
            case _:
                return exact <= shown


def rewrite(written: Written, value: Value) -> str:
    """The same claim made true: same relation, same digits after the point, same unit, today's value."""
    if isinstance(value, tuple):
        part, total = value
        return f"{rewrite(replace(written, unit='', total=None), part)} of {_exact(total).normalize():f}"
    exact, step, sign = _exact(value), written.step, written.relation
    mantissa, scientific, _ = written.number.lower().partition("e")
    digits = len(mantissa.partition(".")[2])
    with localcontext(_EXACT):
        if scientific:  # as many significant digits as before
            step = Decimal(1).scaleb(exact.adjusted() - digits)
        rounding = {">": ROUND_FLOOR, "≥": ROUND_FLOOR, "<": ROUND_CEILING, "≤": ROUND_CEILING}
        number = exact.quantize(step, rounding.get(sign, ROUND_HALF_EVEN))
        if sign in "<>" and number == exact:
            number += step if sign == "<" else -step
        number = number.scaleb(2 if written.percent else 0) + 0  # no -0
        grew_long = abs(number) >= 10**4 and abs(_decimal(written.number)) < 10**3
        comma = "," if "," in written.number or grew_long else ""
        kind = "e" if scientific and number else "f"
        text = f"{number:{comma if kind == 'f' else ''}.{digits}{kind}}".replace("e+", "e")
    plus = "+" if written.number.startswith("+") and number > 0 else ""
    minus = "−" if "−" in written.number else "-"
    return f"{written.prefix}{plus}{text.replace('-', minus)}{written.unit}"


def show(value: Value) -> str:
    """A value as an error message gives it: six digits are enough to see what is wrong."""
    if isinstance(value, tuple):
        return " of ".join(map(show, value))
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _decimal(text: str) -> Decimal:
    return Decimal(re.sub(r"[,\s]", "", text).replace("−", "-"))


def _exact(value: int | float) -> Decimal:
    return Decimal(repr(value))


def _plain(number: Decimal) -> str:
    if number and abs(number) < Decimal("1e-5"):
        return f"{number.normalize():e}".lower()
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
