"""A table's figures as PDF and PNG, from the JSON files of its cells.

    uv run python -m experiments.reproduce --table fashion_mnist_story
    uv run python -m paper_figures.make --table fashion_mnist_story

reads runs/tables/<table>/table.json and the files it names, and writes <figure>.pdf and <figure>.png beside it: the same bytes
from the same figures. Imports none of the tools and no torch.
"""
import argparse
import json
import sys
from pathlib import Path

from paper_figures.draw import KINDS

STYLE = Path(__file__).with_name("paper.mplstyle")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", required=True, help="a table of experiments.reproduce, or its table.json")
    parser.add_argument("--only", nargs="*", help="names of figures")
    parser.add_argument("--out", type=Path, help="folder; default: beside the table.json")
    arguments = parser.parse_args(argv)
    try:
        return make(arguments.table, arguments.only, arguments.out)
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def make(name: str, only: list[str] | None = None, out: Path | None = None) -> int:
    """Draw a table's figures, or some of them.  → 0, or 1 where one could not be drawn.  Raises ValueError."""
    path = Path(name) if name.endswith(".json") else Path("runs") / "tables" / name / "table.json"
    if not path.is_file():
        raise ValueError(f"table={name}: there is no {path}; experiments.reproduce makes it")
    table, out = json.loads(path.read_text()), out or path.parent
    figures = table.get("figures", {})
    if unknown := set(only or ()) - set(figures):
        raise ValueError(f"only={','.join(sorted(unknown))}: {table['table']} has {', '.join(figures) or 'no figures'}")
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for figure in only or figures:
        try:
            draw(figures[figure], table, out / figure)
            print(out / f"{figure}.pdf")
        except Exception as error:  # its file is missing or holds something else; the other figures are drawn
            failed = 1
            print(f"no {figure}: {type(error).__name__}: {error}", file=sys.stderr)
    return failed


def draw(spec: dict, table: dict, out: Path) -> None:
    """Write one figure as PDF and PNG, without dates and program names, so that equal figures are equal bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    if spec.get("kind") not in KINDS:
        raise ValueError(f"kind={spec.get('kind')}: there are {', '.join(KINDS)}")
    with pyplot.style.context(STYLE, after_reset=True):
        figure = KINDS[spec["kind"]](spec, table)
        figure.savefig(out.with_suffix(".pdf"), metadata={"CreationDate": None, "Creator": None, "Producer": None})
        figure.savefig(out.with_suffix(".png"), metadata={"Software": None})
        pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
