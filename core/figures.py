"""Figures as PNG bytes or as SVG for a page, the same bytes for the same input, in one style. matplotlib is loaded when one
is drawn.

Colours are Okabe and Ito's, which every kind of colour vision tells apart (their yellow darker, for lines on white).
"""
import functools
import io
import re
from collections.abc import Callable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A800")
INK = "#444444"
STYLE = {
    "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK,
    "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "text.parse_math": False,
}


def drawn(draw: Callable) -> Callable[..., bytes]:
    """A function that makes a Figure → one that makes its PNG, in our style whatever the process has set."""

    @functools.wraps(draw)
    def picture(*given) -> bytes:
        import matplotlib
        from cycler import cycler

        buffer = io.BytesIO()
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE | {"axes.prop_cycle": cycler(color=COLOURS)})
            draw(*given).savefig(buffer, format="png", dpi=130, metadata={"Software": None}, facecolor="white")
        return buffer.getvalue()

    return picture


# Colors that follow a page's: its text's, and its lines'. Where there is no page, the color itself.
PAGE = {INK: f"var(--ink, {INK})", "#000000": "var(--ink, #000000)", "#eeeeee": "var(--line, #eeeeee)",
        "#dddddd": "var(--line, #dddddd)"}  # fmt: skip


def charted(draw: Callable) -> Callable[..., str]:
    """A function that makes a Figure → one that makes its SVG, without a background, for a page of any color."""

    @functools.wraps(draw)
    def chart(*given) -> str:
        import matplotlib
        from cycler import cycler

        buffer = io.StringIO()
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            own = {"svg.fonttype": "none", "svg.hashsalt": draw.__name__, "text.color": INK, "font.family": "sans-serif",
                   "legend.frameon": False}
            matplotlib.rcParams.update(STYLE | own | {"axes.prop_cycle": cycler(color=COLOURS)})
            draw(*given).savefig(buffer, format="svg", dpi=130, metadata={"Date": None}, transparent=True)
        text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
        text = re.sub(r"<style type=\"text/css\">.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
        text = re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', "", text)  # of groups: two charts of a page share them
        text = re.sub("|".join(PAGE), lambda color: PAGE[color[0]], text)
        return re.sub(r'font-family: [^;"]*', "font-family: sans-serif", text).strip()

    return chart


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **grid):
    """Inches → Figure (drawn by Agg, without pyplot's state) and its Axes, rows,columns."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw=grid)


def two_scales(axis, steps: list[int], figures: list[dict], left: tuple, right: tuple, style: str = "o-") -> tuple:
    """Two figures over steps, each given as (key, label, color), with an axis of its own.  → both axes"""
    both, handles = (axis, axis.twinx()), []
    for one, (key, label, color) in zip(both, (left, right), strict=True):
        handles += one.plot(steps, [f[key] for f in figures], style, ms=3, color=color, label=label)
        one.set_ylabel(label)
    axis.legend(handles=handles, fontsize=8)
    axis.set_xlabel("step")
    return both


def logarithmic(axis, which: str) -> None:
    """Make the "x" or the "y" axis one of logarithms, its numbers written plainly: 1, 2, 5, 10, 20, …"""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set(**{f"{which}scale": "log"})
    line = getattr(axis, f"{which}axis")
    line.set_major_locator(LogLocator(subs=(1, 2, 5)))
    line.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    line.set_minor_formatter(NullFormatter())
