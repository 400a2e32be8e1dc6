"""A page of sections as Markdown, and as one HTML file that needs nothing else."""
import base64
import html
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    head: list[str]
    rows: list[list[str]]
    numbers: slice  # columns that are figures
    folded: str = ""  # the words it is folded behind
    strong: frozenset = frozenset()  # rows to see first


@dataclass(frozen=True)
class Picture:
    name: str
    png: bytes
    about: str


Section = tuple[str, list]  # heading, and blocks: words, Code, Table or Picture


class Code(str):
    """Words to be typed as they are."""


def as_markdown(title: str, about: str, page: list[Section]) -> str:
    lines = [f"# {plain(title)}", plain(about) + "."]
    for heading, blocks in page:
        lines += [f"## {heading}", *map(markdown_block, blocks)]
    return "\n\n".join(lines) + "\n"


def markdown_block(block) -> str:
    match block:
        case Table(head, rows, numbers, folded):
            rule = ["---:" if i in range(len(head))[numbers] else "---" for i in range(len(head))]
            cells = [map(plain, head), rule, *(map(plain, row) for row in rows)]
            lines = "\n".join(f"| {' | '.join(line)} |" for line in cells)
            return f"<details><summary>{folded}</summary>\n\n{lines}\n\n</details>" if folded else lines
        case Picture(name, _, about):
            return f"![{plain(about)}]({name})"
        case Code():
            return f"```sh\n{block}\n```"
    return plain(block)


def plain(words: str) -> str:
    """Words that Markdown shows as they are."""
    return "".join(f"\\{c}" if c in "\\|*`[]" else c for c in html.escape(words, quote=False).replace("\n", " "))


def as_html(title: str, about: str, top: str, page: list[Section]) -> str:
    """top: HTML between the title and the first section."""
    name = html.escape(title)
    sections = [
        f"<section><h2>{html.escape(heading, quote=False)}</h2>\n{chr(10).join(map(_html_block, blocks))}</section>"
        for heading, blocks in page
    ]
    return "\n".join([
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{name}</title><style>{CSS}</style></head>',
        f'<body><main><h1>{name}</h1><p class="soft">{html.escape(about)}.</p>{top}',
        *sections, "</main></body></html>\n",
    ])


def _html_block(block) -> str:
    match block:
        case Table(head, rows, numbers, folded, strong):
            kinds = ["n" if i in range(len(head))[numbers] else "w" for i in range(len(head))]

            def line(cells: list[str], tag: str, kind: str = "") -> str:
                inside = (f'<{tag} class="{k}">{html.escape(c)}</{tag}>' for c, k in zip(cells, kinds, strict=True))
                return f'<tr class="{kind}">{"".join(inside)}</tr>'

            body = "\n".join(line(row, "td", "own" if i in strong else "") for i, row in enumerate(rows))
            top, kind = (f"<thead>{line(head, 'th')}</thead>", "") if any(head) else ("", "words")
            shown = f'<div class="wide"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'
            return f"<details><summary>{folded}</summary>{shown}</details>" if folded else shown
        case Picture(_, png, about):
            words = html.escape(about)
            image = f'<img alt="{words}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
            return f'<figure><div class="wide">{image}</div><figcaption>{words}</figcaption></figure>'
        case Code():
            return f"<pre>{html.escape(block)}</pre>"
    return f"<p>{html.escape(block)}</p>"


CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #dfe3e8; --card: #fff; --page: #f4f6f8;
  --own: #e4f0f8; --blue: #0072B2 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1; --line: #343b44; --card: #1d2228;
  --page: #14171b; --own: #173040; --blue: #56B4E9 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.55 system-ui, sans-serif }
main { max-width: 1320px; margin: 0 auto; padding: 28px 16px 60px }
h1 { font-size: 1.75rem; margin: 0 0 4px; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 0 0 10px }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; margin: 16px 0 }
p { margin: 8px 0; overflow-wrap: anywhere } .soft { color: var(--soft) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 18px 0 }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px }
.tile b { display: block; font-size: 1.9rem; line-height: 1.25; color: var(--blue) }
.tile small { font-size: 1rem } .tile .soft { font-size: .85rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .84rem; min-width: 50% }
th, td { padding: 5px 9px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { color: var(--soft); font-weight: 600 } tr { background: var(--card) } tr.own { background: var(--own) }
th, td { white-space: nowrap } th:first-child, td:first-child { position: sticky; left: 0; background: inherit }
table.words td + td { white-space: normal; overflow-wrap: anywhere }
.n { text-align: right; font-variant-numeric: tabular-nums }
figure { margin: 14px 0 } figcaption { color: var(--soft); font-size: .87rem; margin-top: 6px }
img { display: block; max-width: 100%; margin: 0 auto; background: #fff; border-radius: 8px }
pre { background: var(--page); border-radius: 6px; padding: 10px 12px; white-space: pre-wrap; overflow-wrap: anywhere }
summary { cursor: pointer; color: var(--blue) }
@media (max-width: 640px) { section { padding: 14px 12px } figure img { max-width: none; width: 620px } }
"""
