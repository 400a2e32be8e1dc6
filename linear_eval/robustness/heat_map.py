"""Accuracies by corruption and severity as SVG, which takes the page's colors and fits a phone."""
import html

from linear_eval.robustness.results import RobustnessRow
from vision.corruptions import SEVERITIES

LABEL, CELL, LINE = 132, 38, 21  # pixels: width of the names and of a cell, height of a row
STRONGEST = 0.75  # opacity of blue, at most, so that text on it is legible on light and on dark pages


def heat_map(row: RobustnessRow) -> str:
    """A row a corruption, in the order of families; the clean accuracy first. The bluer, the more of it is kept."""
    scores = sorted(row.corruptions, key=lambda one: ("noise", "blur", "weather", "digital").index(one.family))
    width, height = LABEL + (1 + len(SEVERITIES)) * CELL, (len(scores) + 1) * LINE + 4
    parts = [_text(LABEL + CELL * (0.5 + i), 14, name) for i, name in enumerate(("clean", *map(str, SEVERITIES)))]
    for i, score in enumerate(scores):
        y = (i + 1) * LINE + 2
        parts.append(_text(LABEL - 6, y + 14, score.corruption.replace("_", " ") + (" *" if score.extra else ""), "end"))
        for j, accuracy in enumerate((row.clean, *score.accuracies)):
            share = min(1.0, accuracy / row.clean) if row.clean else 0.0
            parts.append(f'<rect x="{LABEL + CELL * j + 1}" y="{y}" width="{CELL - 2}" height="{LINE - 2}" rx="2" '
                         f'style="fill: var(--heat, #0072B2); fill-opacity: {STRONGEST * share:.3f}"/>')
            parts.append(_text(LABEL + CELL * (j + 0.5), y + 14, f"{accuracy:.1f}"))
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" class="narrow" {size}>{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    style = "fill: var(--ink, #1b1f24); font: 11px sans-serif"
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" style="{style}">{html.escape(text)}</text>'
