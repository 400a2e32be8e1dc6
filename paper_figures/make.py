"""A table's figures as PDF and PNG, from the JSON that its cells left.

    uv run python -m experiments.reproduce --table fashion_mnist_story
    uv run python -m paper_figures.make --table fashion_mnist_story

reads runs/tables/<table>/table.json and the files it names, and leaves <figure>.pdf and <figure>.png beside it: the same bytes
from the same figures. Knows nothing of the tools and needs no torch.
"""
import argparse
import json
import sys
from pathlib import Path

from paper_figures.draw import KINDS

STYLE = Path(__file__).with_name("paper.mplstyle")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", required=True, help="one that experiments.reproduce has made, or its table.json")
    parser.add_argument("--only", nargs="*", help="names of figures")
    parser.add_argument("--out", type=Path, help="folder; default: beside the table.json")
    given = parser.parse_args(argv)
    try:
        return make(given)
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def make(given) -> int:
    path = Path(given.table) if given.table.endswith(".json") else Path("runs") / "tables" / given.table / "table.json"
    if not path.is_file():
        raise ValueError(f"table={given.table}: there is no {path}; experiments.reproduce makes it")
    table = json.loads(path.read_text())
    figures, out = table.get("figures", {}), given.out or path.parent
    chosen = given.only or list(figures)
    if unknown := set(chosen) - set(figures):
        raise ValueError(f"only={','.join(sorted(unknown))}: {table['table']} has {', '.join(figures) or 'no figures'}")
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in chosen:
        try:
            draw(figures[name], table, out / name)
            print(out / f"{name}.pdf")
        except Exception as error:  # a file that is not there or holds something else; the other figures are drawn
            failed = 1
            print(f"no {name}: {type(error).__name__}: {error}", file=sys.stderr)
    return failed


def draw(said: dict, table: dict, out: Path) -> None:
    """One figure, twice. Dates and programs' names are left out of the files, so that equal figures are equal bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    if said.get("kind") not in KINDS:
        raise ValueError(f"kind={said.get('kind')}: there are {', '.join(KINDS)}")
    with pyplot.style.context(STYLE, after_reset=True):
        figure = KINDS[said["kind"]](said, table)
        figure.savefig(out.with_suffix(".pdf"), metadata={"CreationDate": None, "Creator": None, "Producer": None})
        figure.savefig(out.with_suffix(".png"), metadata={"Software": None})
        pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
