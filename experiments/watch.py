"""A live page over run folders: a table, curves side by side, pictures.

    uv run python -m experiments.watch runs/         # http://127.0.0.1:8008; over SSH: ssh -L 8008:127.0.0.1:8008 machine

It reads metrics.jsonl, test.json, pictures and reports, writes nothing, and listens on this machine alone. The page is made
anew at each request and asks for itself again every ten seconds, unless paused; it needs no network and no script.
"""
import argparse
import html
import re
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from experiments.curves import svg
from experiments.run_folders import PICTURES, RunFolder, run_folders

SHOWN = 12  # runs whose curves are drawn: the newest, or those that are chosen
SECONDS = 10  # between two requests
CURVES = {"loss": "loss", "knn": "kNN on validation images, %", "rankme": "effective rank", "images_per_second": "images/s"}
CSS = Path(__file__).with_name("watch.css")


def page(root: Path, chosen: list[str], paused: bool = False) -> str:
    """chosen: names of runs whose curves and pictures are shown; none: the newest.  paused: it does not ask for itself again"""
    runs = run_folders(root)
    shown = [run for run in runs if run.name in chosen][:SHOWN] or runs[:SHOWN]
    parts = [_head(root, runs, paused), _table(runs, shown)]
    for name, title in CURVES.items():
        curves = {run.name: points for run in shown if (points := run.curve(name))}
        if curves:
            parts.append(f"<section><h2>{title}</h2>{svg(curves, title)}</section>")
    pictures = "".join(_picture(run, name) for run in shown for name in PICTURES if (run.folder / name).is_file())
    if pictures:
        parts.append(f"<section><h2>Pictures</h2>{pictures}</section>")
    return "\n".join([*parts, "</main></body></html>"])


def _head(root: Path, runs: list[RunFolder], paused: bool) -> str:
    count = f"{len(runs)} runs" if runs else "no run with a metrics.jsonl yet"
    refresh = "" if paused else f'<meta http-equiv="refresh" content="{SECONDS}">'
    again = f'made again every {SECONDS} seconds: <a href="/?pause=1">pause</a>, to choose runs'
    again = 'paused: <a href="/">resume</a>' if paused else again
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1">{refresh}<title>{html.escape(root.name)}: runs</title><style>{CSS.read_text()}</style></head><body>'
        f'<main><h1>Runs in {html.escape(str(root))}</h1><p class="soft">{count}; {again}</p>'
    )


def _table(runs: list[RunFolder], shown: list[RunFolder]) -> str:
    """All runs, each with a box that chooses it."""
    head = ["", "run", "report", "state", "step", "loss", "kNN, %", "test kNN, %", "images/s", "last row"]
    rows = []
    for run in runs:
        name, checked = html.escape(run.name, quote=True), " checked" if run in shown else ""
        box = f'<input type="checkbox" name="run" value="{name}" aria-label="show {name}"{checked}>'
        report = f'<a href="/report/{quote(run.name)}" aria-label="report of {name}">report</a>' if run.report else ""
        figures = (f"<td>{html.escape(text)}</td>" for text in run.cells)
        cells = [f"<td>{box}</td>", f'<th scope="row">{name}</th>', f"<td>{report}</td>", *figures]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    return (
        f'<form><div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f"<button>Show the chosen ones (at most {SHOWN})</button></form>"
    )


def _picture(run: RunFolder, name: str) -> str:
    """Its address changes when the file does, so that a browser keeps it until then."""
    stamp = (run.folder / name).stat().st_mtime_ns
    about = html.escape(f"{run.name}: {name}", quote=True)
    address = f"/picture/{quote(run.name)}/{name}?{stamp}"
    return f'<figure><img loading="lazy" alt="{about}" src="{address}"><figcaption>{about}</figcaption></figure>'


class Handler(BaseHTTPRequestHandler):
    """GET /, /report/RUN and /picture/RUN/NAME.png."""

    def __init__(self, root: Path, *connection):
        self.root = root
        super().__init__(*connection)

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if not re.fullmatch(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", self.headers.get("Host", "")):
            self.send_error(403)  # a page elsewhere that has this machine's address under a name of its own
        elif address.path == "/":
            asked = parse_qs(address.query)
            text = page(self.root, asked.get("run", []), "pause" in asked)
            self._answer(text.encode(), "text/html; charset=utf-8")
        elif report := self._report(unquote(address.path)):
            self._answer(report.read_bytes(), "text/html; charset=utf-8")
        elif picture := self._picture(unquote(address.path)):
            self._answer(picture.read_bytes(), "image/png")
        else:
            self.send_error(404)

    def _report(self, path: str) -> Path | None:
        start, _, name = path.partition("/report/")
        return None if start else next((run.report for run in run_folders(self.root) if run.name == name), None)

    def _picture(self, path: str) -> Path | None:
        """One of the run folders' own pictures, and no other file."""
        start, _, rest = path.partition("/picture/")
        name, _, picture = rest.rpartition("/")
        if start or picture not in PICTURES:
            return None
        run = next((run for run in run_folders(self.root) if run.name == name), None)
        return run.folder / picture if run and (run.folder / picture).is_file() else None

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store" if kind.startswith("text") else "max-age=86400")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args) -> None:
        pass


def server(root: Path, port: int) -> ThreadingHTTPServer:
    """Listening on the loopback.  port: 0 for a free one.  Raises OSError where it is taken."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, root))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.watch", description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, nargs="?", default=Path("runs"), help="the folder of runs")
    parser.add_argument("--port", type=int, default=8008)
    options = parser.parse_args(argv)
    if not options.root.is_dir():
        print(f"error: runs={options.root}: no such folder", file=sys.stderr)
        return 2
    try:
        service = server(options.root, options.port)
    except OSError as error:
        print(f"error: port={options.port}: {error.strerror}; give another --port", file=sys.stderr)
        return 2
    print(f"http://127.0.0.1:{service.server_port}  (Ctrl-C ends it)", flush=True)
    try:
        service.serve_forever()
    except KeyboardInterrupt:
        return 0
    finally:
        service.server_close()


if __name__ == "__main__":
    sys.exit(main())
