"""A table of sums, and its tool: it takes a moment, fails when told, and keeps count."""
from pathlib import Path

TOOL = '''
import json, os, pathlib, sys, time
settings = dict(word[2:].split("=", 1) for word in sys.argv[1:])
out = pathlib.Path(settings["out"])
out.mkdir(parents=True, exist_ok=True)
busy = out / "busy"
busy.touch(exist_ok=False)  # two at once in a folder: it fails
with open("calls.txt", "a") as file:
    file.write(settings["name"] + "\\n")
time.sleep(float(settings.get("sleep", 0)))
busy.unlink()
if settings["name"] == pathlib.Path("broken").read_text() if pathlib.Path("broken").exists() else False:
    sys.exit("it is broken")
before = json.loads(pathlib.Path(settings["before"]).read_text())["value"] if "before" in settings else 0
result = {"epoch": 1, "value": before + float(settings["add"]), "rows": [{"source": "a", "v": 1}, {"source": "b", "v": 7}]}
(out / "result.json").write_text(json.dumps(result))
'''
TABLE = """
title: Sums
about: Of two numbers.
variables: {base: 10, sleep: 0, seeds: [1, 2, 3]}
smoke: {base: 1, seeds: [1]}
cells:
  first:
    tool: toy.work
    settings: {name: "first-{seed}", add: "{base}", sleep: "{sleep}", out: "{out}"}
    files: {scores: "{out}/result.json"}
    minutes: 2
  second:
    tool: toy.work
    settings: {name: "second-{kind}-{seed}", add: "{more}", before: "{first.scores}", sleep: "{sleep}", out: "{out}"}
    files: {scores: "{out}/result.json"}
    minutes: 3
columns:
  sum: {title: "sum, %", digits: 1, best: high}
  v: {title: v_b}
rows:
  - name: little
    with: {kind: little, more: "{seed}"}
    values: {sum: "{second.scores}#value", v: "{second.scores}#rows[source=b].v"}
    published: {sum: [12.5, "Somebody 2001, table 2"]}
  - name: much & more
    with: {kind: much, more: 5}
    values: {sum: "{second.scores}#value"}
"""


def calls(place: Path) -> list[str]:
    path = place / "calls.txt"
    return path.read_text().split() if path.exists() else []
