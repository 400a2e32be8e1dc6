"""Curves as inline SVG, in the page's own colors: light and dark, and no wider than the page."""
import html
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 220, 56, 24, 10
MOST = 300  # points of a curve
DASHES = ("", "6 3", "2 3", "8 3 2 3")  # beside colors, so that no meaning is in color alone


def svg(curves: Mapping[str, Points], title: str) -> str:
    """A chart of named curves, and a legend with the last figure of each."""
    points = [point for curve in curves.values() for point in curve]
    left, right = _range([x for x, _ in points])
    low, high = _range([y for _, y in points])

    def place(point: tuple[float, float]) -> str:
        x = LEFT + (point[0] - left) / (right - left) * (WIDTH - LEFT - 8)
        y = HEIGHT - BOTTOM - (point[1] - low) / (high - low) * (HEIGHT - BOTTOM - TOP)
        return f"{x:.1f},{y:.1f}"

    lines, legend = [], []
    for i, (name, curve) in enumerate(curves.items()):
        style, about = f'class="c{i % 8}" stroke-dasharray="{DASHES[i // 8 % len(DASHES)]}"', html.escape(name)
        lines.append(f'<polyline {style} points="{" ".join(map(place, thinned(curve)))}"><title>{about}</title></polyline>')
        key = f'<svg class="key" viewBox="0 0 24 8" aria-hidden="true"><polyline {style} points="0,4 24,4"/></svg>'
        legend.append(f"<li>{key}{about}: {curve[-1][1]:.4g}</li>")
    labels = [f'<text x="{LEFT - 6}" y="{y}" text-anchor="end">{value:.4g}</text>'
              for y, value in ((TOP + 8, high), (HEIGHT - BOTTOM, low))]
    labels += [f'<text x="{LEFT}" y="{HEIGHT - 6}">step {left:,.0f}</text>',
               f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">{right:,.0f}</text>']
    axes = f'<path class="axis" d="M{LEFT},{TOP}V{HEIGHT - BOTTOM}H{WIDTH - 8}"/>'
    about = html.escape(f"{title}, by step, of {len(curves)} runs", quote=True)
    return (f'<svg class="chart" role="img" aria-label="{about}" viewBox="0 0 {WIDTH} {HEIGHT}">{axes}{"".join(lines)}'
            f'{"".join(labels)}</svg><ul class="legend">{"".join(legend)}</ul>')


def thinned(curve: Points) -> list[tuple[float, float]]:
    """At most MOST points, evenly, the last one among them."""
    stride = -(-len(curve) // MOST)
    return [*curve[:-1:stride], curve[-1]]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
