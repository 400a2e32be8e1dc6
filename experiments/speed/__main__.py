"""All benchmarks, each in a process of its own, one after the other; then table and chart of what is kept.

    uv run python -m experiments.speed --keep                # an hour or so: leave the machine alone meanwhile
    uv run python -m experiments.speed --only step,losses
    uv run python -m experiments.speed --quick               # does everything run?
    uv run python -m experiments.speed --table               # redraw from the kept figures
"""
import argparse
import subprocess
import sys
from pathlib import Path

from experiments.speed.side_by_side import RESULTS
from experiments.speed.table import TITLES, draw


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(TITLES), help="benchmarks, by comma (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="measure nothing: redraw from the kept figures")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run? its figures mean nothing")
    parser.add_argument("--keep", action="store_true", help="write the figures to --results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of kept figures")
    settings = parser.parse_args()
    chosen = settings.only.split(",")
    if unknown := set(chosen) - set(TITLES):
        parser.error(f"--only {','.join(sorted(unknown))}: there are {', '.join(TITLES)}")
    if settings.quick and settings.keep and settings.results.resolve() == RESULTS:
        parser.error("--quick figures mean nothing: keep them, if at all, in another folder with --results")

    flags = [f"--{name}" for name in ("quick", "keep") if getattr(settings, name)]
    if settings.results != RESULTS:
        flags += ["--results", str(settings.results)]
    failed = [] if settings.table else [name for name in chosen if not run(name, flags)]
    try:
        written = draw(settings.results)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(*(f"wrote {path}" for path in written), sep="\n")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, flags: list[str]) -> bool:
    print(f"\n== {name}", flush=True)
    return subprocess.run([sys.executable, "-m", f"experiments.speed.{name}", *flags]).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
