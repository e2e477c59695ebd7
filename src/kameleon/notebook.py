"""What a notebook shows of a result: tables and curves in HTML, with every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from kameleon.terminal import printable

Points = Sequence[tuple[float, float]]
_WIDTH, _HEIGHT, _EDGE = 560, 200, 44
_COLOURS = ("#9aa5b1", "#d62728", "#1f77b4")
_MOST_POINTS = 500  # of a line: more than the picture has pixels


def html_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> str:
    """A table. Each cell is shown as its text."""
    head = "".join(f"<th>{_escaped(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{_escaped(str(cell))}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    caption = f"<caption>{_escaped(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def svg_curves(curves: Mapping[str, Points], *, x: str, y: str) -> str:
    """Lines over one axis, from y = 0 on, each by its name; "" where no line has two points."""
    drawn = {name: _thinned(points) for name, points in curves.items() if len(points) > 1}
    if not drawn:
        return ""
    xs = [point[0] for points in drawn.values() for point in points]
    least, most, top = min(xs), max(xs), max(point[1] for points in drawn.values() for point in points) or 1.0
    wide, high = _WIDTH - 2 * _EDGE, _HEIGHT - 2 * _EDGE

    def place(point: tuple[float, float]) -> str:
        across = _EDGE + wide * (point[0] - least) / max(most - least, 1e-9)
        return f"{across:.1f},{_EDGE + high * (1 - point[1] / top):.1f}"

    parts = [
        f'<path d="M{_EDGE},{_EDGE} V{_EDGE + high} H{_EDGE + wide}" fill="none" stroke="#888"/>',
        _text(_EDGE, _EDGE - 8, f"{y}, at most {top:.3g}"),
        _text(_EDGE + wide, _HEIGHT - 24, f"{x} {most:g}", anchor="end"),
        _text(_EDGE, _HEIGHT - 24, f"{least:g}"),
    ]
    for at, (name, points) in enumerate(drawn.items()):
        colour = _COLOURS[at % len(_COLOURS)]
        parts.append(f'<polyline points="{" ".join(map(place, points))}" fill="none" stroke="{colour}"/>')
        parts.append(_text(_EDGE + 130 * at, _HEIGHT - 6, name, colour=colour))
    box = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{"".join(parts)}</svg>'


def _escaped(text: str) -> str:
    return escape(printable(text))


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#888") -> str:
    return f'<text x="{x}" y="{y}" font-size="11" text-anchor="{anchor}" fill="{colour}">{_escaped(text)}</text>'


def _thinned(points: Points) -> Points:
    step = -(-len(points) // _MOST_POINTS)
    return [*points[:-1:step], points[-1]]
