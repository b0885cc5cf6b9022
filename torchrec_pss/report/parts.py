"""Parts of the report's page that know nothing of arrays: tables, bars, lists; text is escaped here."""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence

_MOST_BARS = 30


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of texts; on a phone each becomes a block that repeats the head."""
    heads = [html.escape(cell) for cell in head]
    lines = []
    for row in rows:
        cells = zip(heads, row, strict=True)
        lines.append("".join(f'<td data-head="{of}">{html.escape(cell)}</td>' for of, cell in cells))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{''.join(f'<th>{h}</th>' for h in heads)}</tr></thead><tbody>{body}</tbody></table>"


def bars(title: str, values: Mapping[str, float], told: Callable[[float], str]) -> str:
    """A panel of horizontal bars, the largest first. Zeros, and what comes behind the first 30, are counted in a last line.

    Args:
        values: by name; negative ones have a bar of another color.
        told: a value as text.
    """
    ordered = sorted(((n, v) for n, v in values.items() if v), key=lambda pair: -abs(pair[1]))
    shown = ordered[:_MOST_BARS]
    largest = max((abs(value) for _, value in shown), default=1.0)
    lines = []
    for name, value in shown:
        kind = ' class="minus"' if value < 0 else ""
        bar = f'<span><i{kind} style="width:{abs(value) / largest:.2%}"></i></span>'
        lines.append(f"<em>{html.escape(name)}</em>{bar}<u>{html.escape(told(value))}</u>")
    rest = [f"{n:,} {what}" for n, what in ((len(ordered) - len(shown), "smaller"), (len(values) - len(ordered), "are 0")) if n]  # fmt: skip
    more = f"<p>{', '.join(rest)}</p>" if rest else ""
    return panel(title, f'<div class="bars">{"".join(lines)}</div>{more}')


def panel(title: str, inside: str) -> str:
    return f'<section class="panel"><h4>{html.escape(title)}</h4>{inside}</section>'


def panels(of: Iterable[str], layout: str = "panels") -> str:
    """Side by side where there is room: "panels" in rows, "columns" one below the other, for those of many heights."""
    return f'<div class="{layout}">{"".join(of)}</div>'


def legend(named: Iterable[tuple[str, str]]) -> str:
    """Colors and what they stand for."""
    items = (f'<li><i style="background:{color}"></i>{html.escape(told)}</li>' for color, told in named)
    return f'<ul class="legend">{"".join(items)}</ul>'


def definitions(told: Mapping[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{html.escape(n)}</dt><dd>{html.escape(v)}</dd>" for n, v in told.items()) + "</dl>"
