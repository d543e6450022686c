"""A number as a person writes it, against the number that was computed; the oracle is exact fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weave.note import numbers

HALF = Fraction(1, 2)
reals = st.floats(-1e15, 1e15) | st.integers(-(10**12), 10**12)
RELATIONS = ["", "> ", "< ", "≥ ", "≤ ", "≈ ", "about ", "at least ", "at most ", "more than ", "less than "]


def exact(value: float | int) -> Fraction:
    """The decimal digits that Python prints for a value: 0.1 is a tenth here."""
    return Fraction(repr(value))


def digits_of(number: Fraction, places: int, grouped: bool) -> str:
    """A fraction rounded half to even to so many places after the point, written by integer arithmetic alone."""
    scaled = round(number * 10**places)
    whole, rest = divmod(abs(scaled), 10**places)
    text = f"{whole:,}" if grouped else str(whole)
    return ("-" if scaled < 0 else "") + text + (f".{rest:0{places}}" if places else "")


@st.composite
def written(draw: st.DrawFn) -> str:
    """Any claim that a person might write."""
    if draw(st.integers(0, 9)) == 0:
        return f"{draw(st.sampled_from(RELATIONS))}{draw(st.integers(0, 99))} of {draw(st.integers(1, 99))}"
    number = digits_of(exact(draw(reals)), draw(st.integers(0, 6)), draw(st.booleans()))
    if draw(st.booleans()):
        number = number.replace("-", "−")
    if draw(st.integers(0, 4)) == 0:
        number += f"e{draw(st.integers(-30, 30))}"
    unit = draw(st.sampled_from(["", "", "%", " %", "×", "x"]))
    return draw(st.sampled_from(RELATIONS)) + number + unit


@given(value=reals, places=st.integers(0, 8), grouped=st.booleans(), percent=st.booleans(), sign=st.booleans())
def test_a_value_holds_as_its_own_digits(value: float, places: int, grouped: bool, percent: bool, sign: bool) -> None:
    """Rounded to any number of digits, grouped or not, as a percentage or not, a number is true of itself."""
    number = exact(value) * (100 if percent else 1)
    text = digits_of(number, places, grouped) + ("%" if percent else "")
    claim = numbers.read(text.replace("-", "−") if sign else text)
    assert claim and numbers.holds(claim, value)


@given(shown=reals, value=reals, places=st.integers(0, 8), percent=st.booleans())
def test_it_holds_exactly_when_within_half_a_unit_of_the_last_digit(
    shown: float, value: float, places: int, percent: bool
) -> None:
    text = digits_of(exact(shown), places, False)
    unit = Fraction(1, 10**places * (100 if percent else 1))
    centre = Fraction(text) / (100 if percent else 1)
    claim = numbers.read(text + "%" * percent)
    assert claim
    for candidate in (
        value,
        float(centre),
        float(centre + unit * HALF),
        float(centre - unit),
        float(centre + 3 * unit),
    ):
        assert numbers.holds(claim, candidate) == (abs(exact(candidate) - centre) <= unit * HALF)


@given(
    shown=st.integers(-(10**6), 10**6),
    places=st.integers(0, 6),
    steps=st.integers(-40, 40).filter(lambda n: abs(n) > 1),
)
def test_moved_by_more_than_the_tolerance_it_does_not_hold(shown: int, places: int, steps: int) -> None:
    """One digit off in the last place shown is false: a claim says no more than it shows, and no less."""
    text = digits_of(Fraction(shown, 10**places), places, False)
    claim = numbers.read(text)
    moved = Fraction(shown, 10**places) + Fraction(steps, 2 * 10**places)
    assert claim and not numbers.holds(claim, float(moved))
    assert numbers.holds(claim, float(Fraction(shown, 10**places)))


@given(bound=reals, value=reals, places=st.integers(0, 6))
def test_relations_are_the_exact_ones(bound: float, value: float, places: int) -> None:
    text = digits_of(exact(bound), places, True)
    number, computed = Fraction(text.replace(",", "")), exact(value)
    near = max(Fraction(1, 10**places), abs(number) / 10)
    expected = {
        ">": computed > number, "more than": computed > number, "over": computed > number,
        "<": computed < number, "less than": computed < number, "under": computed < number,
        "≥": computed >= number, ">=": computed >= number, "at least": computed >= number,
        "≤": computed <= number, "<=": computed <= number, "at most": computed <= number,
        "≈": abs(computed - number) <= near, "~": abs(computed - number) <= near,
        "about": abs(computed - number) <= near,
    }  # fmt: skip
    for relation, truth in expected.items():
        claim = numbers.read(f"{relation} {text}")
        assert claim and numbers.holds(claim, value) == truth, relation


@given(text=written(), value=reals | st.tuples(st.integers(0, 10**6), st.integers(1, 10**6)))
def test_rewriting_gives_a_claim_that_reads_again_and_holds(text: str, value: numbers.Value) -> None:
    claim = numbers.read(text)
    assert claim, text
    new = numbers.rewrite(claim, value)
    again = numbers.read(new)
    assert again and numbers.holds(again, value), f"{text!r} for {value!r} became {new!r}"
    assert again.relation == claim.relation
    assert numbers.rewrite(again, value) == new


@pytest.mark.parametrize(
    ("text", "value", "new"),
    [
        ("0.97", 0.9412, "0.94"),
        ("97%", 0.9412, "94%"),
        ("1,024", 2048, "2,048"),
        ("1,024", 17, "17"),
        ("1024", 12345, "12345"),
        ("512", 12345, "12,345"),
        ("2.6×", 3.14159, "3.1×"),
        ("1.2e-7", 3.456e-9, "3.5e-9"),
        ("> 1.2e-7", 199.99, "> 1.9e2"),
        ("−0.4", -0.52, "−0.5"),
        ("+0.4", 0.52, "+0.5"),
        ("0.12", -0.001, "0.00"),
        ("> 0.9", 0.87, "> 0.8"),
        ("> 0.9", 0.9, "> 0.8"),
        ("at most 3", 4.2, "at most 5"),
        ("About 50", 61, "About 61"),
        ("10 of 12", (11, 12), "11 of 12"),
        ("10", (11, 12), "11 of 12"),
        ("97%", (11, 12), "11 of 12"),
        ("10 of 12", 0.4, "0"),
    ],
)
def test_rewriting_keeps_what_the_person_chose(text: str, value: numbers.Value, new: str) -> None:
    claim = numbers.read(text)
    assert claim and numbers.rewrite(claim, value) == new


@pytest.mark.parametrize(
    ("text", "value", "truth"),
    [
        ("1.2e-7", 1.24e-7, True),
        ("1.2e-7", 1.26e-7, False),
        ("1e3", 1400, True),
        ("2.6×", 2.64, True),
        ("97 %", 0.974, True),
        ("10 of 12", (10, 12), True),
        ("10 of 12", (10, 13), False),
        ("10 of 12", 10, False),
        ("10", (10, 12), False),
        ("more\nthan 10 of 12", (11, 12), True),
        ("about 50", 55, True),
        ("about 50", 56, False),
        ("1\N{NARROW NO-BREAK SPACE}%", 0.01, True),
    ],
)
def test_worked_by_hand(text: str, value: numbers.Value, truth: bool) -> None:
    claim = numbers.read(text)
    assert claim and numbers.holds(claim, value) is truth


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rate",
        "0,5",
        "1,02",
        "1.2.3",
        "..5",
        "12 34",
        "10 of",
        "> ",
        "97 percent",
        "1e",
        "--1",
        "π",
        "0x10",
        "> < 1",
    ],
)
def test_what_is_no_number_is_none(text: str) -> None:
    assert numbers.read(text) is None


@given(st.text())
def test_any_text_is_read_or_is_none(text: str) -> None:
    claim = numbers.read(text)
    assert claim is None or numbers.holds(claim, 0.5) in (True, False)


@pytest.mark.parametrize("text", ["leſs than 5", "٣٫٥", "٣"])
def test_letters_that_only_look_alike_do_no_harm(text: str) -> None:
    claim = numbers.read(text)
    assert claim is None or numbers.holds(claim, 3) in (True, False)
