"""Self-contained HTML pages: one style, pictures inside, nothing fetched when they are opened."""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

escape = html.escape

STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5b6875; --paper: #fff; --line: #d9dfe5; --tint: #f3f6f9;
        --accent: #3b6ea5; --good: #2d7d46; --bad: #b3423d }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ed; --soft: #9aa7b3; --paper: #14191f; --line: #333d47;
        --tint: #1c232b; --accent: #7fb0e4; --good: #6cc087; --bad: #e8817b } }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 5rem; background: var(--paper); color: var(--ink);
       font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .5rem 0 }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; padding-top: .8rem; border-top: 1px solid var(--line) }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .2rem }
p, ul { margin: .5rem 0; max-width: 48rem }
.soft { color: var(--soft) } .good { color: var(--good) } .bad { color: var(--bad) }
.numbers { background: var(--tint); border-left: 3px solid var(--accent); padding: .4rem .8rem; max-width: 48rem }
figure { margin: 1rem 0; overflow-x: auto } figcaption { color: var(--soft); font-size: .9rem }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem; margin: .6rem 0 }
th, td { text-align: left; padding: .25rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--soft); font-weight: 600 } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
tr.mark td { font-weight: 600 } code { font-size: .92em } details { margin: .6rem 0 }
summary { cursor: pointer; color: var(--accent) } nav a { color: var(--accent); margin-right: 1rem }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole document; `body` is HTML."""
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            *body,
            "</body>\n</html>\n",
        ]
    )


def image(png: bytes | Path, about: str, caption: str = "") -> str:
    """A PNG inside the page; `about` is for those who cannot see it."""
    data = base64.b64encode(png if isinstance(png, bytes) else png.read_bytes()).decode()
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{escape(about)}" src="data:image/png;base64,{data}">{below}</figure>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], marked: Sequence[int] = ()) -> str:
    """A table of plain texts; a column whose first cell starts with a digit or a sign is set to the right.

    Args:
      marked: rows to stand out.
    """
    rows = [[str(cell) for cell in row] for row in rows]
    number = [
        bool(rows) and rows[0][i][:1] in "0123456789+-." and rows[0][i] != ""
        for i in range(len(head))
    ]

    def line(cells: Sequence[str], tag: str, mark: str = "") -> str:
        kinds = (" class='n'" if right else "" for right in number)
        made = (
            f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)
        )
        return f"<tr{mark}>{''.join(made)}</tr>"

    lines = [line(head, "th")]
    lines += [line(row, "td", " class='mark'" if i in marked else "") for i, row in enumerate(rows)]
    return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"


def details(summary: str, body: str, is_open: bool = False) -> str:
    """A part of the page that folds."""
    return f"<details{' open' if is_open else ''}><summary>{escape(summary)}</summary>\n{body}\n</details>"
