"""Plots as inline SVG: self-contained, readable without colour, no script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from agentkd.schema import Interval

__all__ = ["bars_with_intervals", "line_plot"]

_ROW = 26
_LEFT = 190
_WIDTH = 460


def bars_with_intervals(rows: Sequence[tuple[str, Interval]], label: str, strong: Sequence[str] = ()) -> str:
    """Draw one horizontal bar per row on a scale from 0 to 1, with its interval as a whisker."""
    height = _ROW * len(rows) + 34
    parts = [_open(_LEFT + _WIDTH + 60, height, label)]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _LEFT + tick * _WIDTH
        parts.append(f'<line x1="{x:.1f}" y1="4" x2="{x:.1f}" y2="{height - 26}" class="grid"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{height - 10}" class="tick" text-anchor="middle">{tick:.2f}</text>'
        )
    for number, (name, interval) in enumerate(rows):
        y = 6 + number * _ROW
        middle = y + _ROW / 2 - 3
        kind = "bar strong" if name in strong else "bar"
        width = max(interval.value * _WIDTH, 1)
        low, high = _LEFT + interval.low * _WIDTH, _LEFT + interval.high * _WIDTH
        parts.append(f'<text x="{_LEFT - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_ROW - 8}" class="{kind}"/>')
        parts.append(f'<path d="M{low:.1f} {middle - 4}v8M{low:.1f} {middle}H{high:.1f}M{high:.1f} {middle - 4}v8" class="whisker"/>')  # fmt: skip  # noqa: E501
        parts.append(f'<text x="{max(high, _LEFT + width) + 6:.1f}" y="{middle + 4:.1f}" class="value">{interval.value:.3f}</text>')  # fmt: skip  # noqa: E501
    return "".join([*parts, "</svg>"])


def line_plot(points: Sequence[tuple[int, float]], label: str) -> str:
    """Draw a curve with its axes; empty for fewer than two points."""
    if len(points) < 2:
        return ""
    width, height, left, bottom = 640, 200, 50, 28
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    top = max(ys) * 1.05 or 1.0
    span = max(xs) - min(xs) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - min(xs)) / span * (width - left - 10),
            height - bottom - y / top * (height - bottom - 8),
        )

    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in (place(x, y) for x, y in points))
    parts = [_open(width, height, label)]
    for tick in (0.0, top / 2, top):
        _, y = place(min(xs), tick)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{width - 10}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" class="tick" text-anchor="end">{tick:.2f}</text>')
    for tick_x in (min(xs), max(xs)):
        x, _ = place(tick_x, 0)
        parts.append(f'<text x="{x:.1f}" y="{height - 8}" class="tick" text-anchor="middle">{tick_x}</text>')
    parts.append(f'<path d="{path}" class="curve"/></svg>')
    return "".join(parts)


def _open(width: int, height: int, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>"
    )
