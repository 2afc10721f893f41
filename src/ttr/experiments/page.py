"""Self-contained HTML pages: the style of all reports, tables, pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape


def page(title: str, body: str) -> str:
    """A page that reads well on a phone and in print."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
{body}
</body></html>
"""


def picture(png: bytes, words: str) -> str:
    """A picture that is part of the page; ``words`` are for those who do not see it."""
    data = base64.b64encode(png).decode()
    return f'<div class="scroll"><img alt="{escape(words)}" src="data:image/png;base64,{data}"></div>'


def grid(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], references: int = 0) -> str:
    """A table with a head and a name for each row, the last ones of ``references`` in grey. A cell is HTML,
    and may begin with <td."""
    head = "<tr>" + "".join(f"<th>{escape(each)}</th>" for each in heads) + "</tr>"
    body = [
        f"<tr{' class=reference' * (i >= len(rows) - references)}><th>{escape(name)}</th>"
        + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
        for i, (name, cells) in enumerate(rows)
    ]
    return f'<div class="scroll"><table>{head}{"".join(body)}</table></div>'


STYLE = """:root { color-scheme: light }
body { font: 17px/1.55 Georgia, "Times New Roman", serif; color: #1c1c1c; background: #fdfdfb }
body { max-width: 64rem; margin: 3rem auto; padding: 0 1.5rem; overflow-wrap: anywhere }
td, th { overflow-wrap: normal }
h1 { font-size: 1.9rem; margin: 0 0 1rem } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem }
.lead { font-size: 1.2rem; border-left: 4px solid #0072B2; padding-left: 1rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
table { font: 14px/1.35 system-ui, sans-serif; font-variant-numeric: tabular-nums }
th, td { padding: .45rem .7rem; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top }
tr > th:first-child { text-align: left } tr:first-child th { border-bottom: 2px solid #444 }
tr.reference { color: #777 }
td small { display: block; color: #777; white-space: nowrap }
td.best { background: #d7ebf7; font-weight: 600 } td.equal { background: #eef6fb }
.legend span { padding: 0 .4em }
img { width: 100%; margin: 1rem 0 }
h3 { font-size: 1rem; margin: 1rem 0 .3rem }
pre { white-space: pre-wrap; background: #f1f1ec; padding: .6rem 1rem; font-size: 13px }
@media print {
  body { max-width: none; margin: 0; font-size: 11pt }
  .scroll { overflow: visible }
  tr, pre, img { break-inside: avoid }
}
@media (max-width: 40rem) {
  body { margin: 1rem auto; padding: 0 .8rem; font-size: 16px }
  th, td { padding: .3rem .4rem }
  img { width: 48rem }
}
code { display: block; background: #f1f1ec; padding: .8rem 1rem; overflow-x: auto; font-size: 14px }
.small { font-size: .9rem; color: #555 }
"""
