"""Tables to end a cell with, and text that any figure can show."""

from __future__ import annotations

import html
import math
import numbers
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any


class Table:
    """A table with a header: HTML in a notebook, aligned text in a terminal."""

    def __init__(self, rows: Iterable[Sequence[Any]], header: Sequence[str], digits: int) -> None:
        self.header = [plain(name) for name in header]
        self.rows = [[_scalar(cell) for cell in row] for row in rows]
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row has {len(row)} cells and the header {len(self.header)}: {row}")
        self._digits = digits
        self._right = [
            any(_is_number(row[column]) for row in self.rows)
            and all(_is_number(row[column]) or row[column] is None for row in self.rows)
            for column in range(len(self.header))
        ]

    def _text(self, cell: Any) -> str:
        if cell is None:
            return ""
        if not _is_number(cell):
            return plain(cell)
        if isinstance(cell, numbers.Integral):
            return f"{int(cell):,}".replace("-", "−")
        return signed(float(cell), f",.{self._digits}g")

    def _repr_html_(self) -> str:
        def row(cells: Iterable[str], tag: str) -> str:
            aligned = (
                f'<{tag} style="text-align: {"right" if right else "left"}">{html.escape(cell)}</{tag}>'
                for cell, right in zip(cells, self._right, strict=True)
            )
            return f"<tr>{''.join(aligned)}</tr>"

        body = "\n".join(row(map(self._text, cells), "td") for cells in self.rows)
        return f"<table>\n<thead>{row(self.header, 'th')}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"

    def __repr__(self) -> str:
        lines = [self.header, *([self._text(cell) for cell in row] for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, self._right, strict=True)
            ).rstrip()
            for line in lines
        )


def table(rows: Iterable[Sequence[Any]], header: Sequence[str], *, digits: int = 3) -> Table:
    """Return a table to end a cell with. Numbers are right-aligned, floats have ``digits`` significant digits.

    Raises:
        ValueError: a row is longer or shorter than the header.
    """
    return Table(rows, header, digits)


def plain(text: Any) -> str:
    """Return the text as one line, with invisible characters written as Python does: ``\\n``, ``\\x00``.

    Spaces of all widths stay. The result is safe in HTML and SVG, which do not allow most other invisible characters.
    """
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode()
        for character in str(_scalar(text))
    )


def shortened(text: str, longest: int) -> str:
    """Return the text, or its two ends around an ellipsis if it is too long."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[: longest - half - 1]}…{text[-half:]}"


def signed(number: float, form: str) -> str:
    """Return a number as text, with a true minus sign, no sign before zero, and ``∞`` for infinity."""
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"
    return format(number + 0.0, form).replace("-", "−")


def _is_number(cell: Any) -> bool:
    return isinstance(cell, numbers.Real) and not isinstance(cell, bool)


def _scalar(cell: Any) -> Any:
    """Return the number in a tensor or array without axes; anything else unchanged."""
    return cell.item() if getattr(cell, "shape", None) == () and hasattr(cell, "item") else cell
