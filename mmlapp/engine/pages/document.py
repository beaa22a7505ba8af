# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The frame, the style and the tables of every page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

# What stands where there is no number.
NOTHING = '&ndash;'
# Colours are variables, so that light and dark pages share all other rules.
STYLE = """
:root{color-scheme:light dark;--text:#1b1b1b;--soft:#555;--page:#fff;
--rule:#d4d4d4;--mark:#8a3b00}
@media(prefers-color-scheme:dark){:root{--text:#ececec;--soft:#b4b4b4;
--page:#161616;--rule:#444;--mark:#ffb27a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1rem;background:var(--page);
color:var(--text);font:1rem/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;line-height:1.2}h2{margin-top:2.5rem;font-size:1.25rem}
p,li{max-width:44rem}code,h1,summary{overflow-wrap:anywhere}
.soft,caption{color:var(--soft)}.low{color:var(--mark);font-weight:700}
.warnings{border-left:.25rem solid var(--mark);padding:.1rem 0 .1rem 1.6rem}
.wide{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;font-size:.85rem}
caption{text-align:left;padding-bottom:.4rem}
th{font-weight:600;text-align:left}
th,td{padding:.2rem .45rem;border-bottom:1px solid var(--rule)}
td{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.text{text-align:left;min-width:9rem;white-space:normal}
tr:has(td.text) th{white-space:normal;overflow-wrap:anywhere;min-width:7rem}
tbody th{white-space:nowrap}
thead th+th{text-align:right}
table:has(td.text) thead th{text-align:left}
.wide tr>:first-child{position:sticky;left:0;background:var(--page)}
@media(max-width:40rem){tbody th{min-width:9rem;white-space:normal;
overflow-wrap:anywhere}}
.plots{display:flex;flex-wrap:wrap;gap:1rem}
figure{margin:0}figcaption{font-size:.8rem;overflow-wrap:anywhere}
summary{cursor:pointer;padding:.4rem 0}
"""


def document(title: str, parts: Iterable[str], style: str = '') -> str:
    """Returns a page.

    Args:
        title (str): Plain text.
        parts (Iterable[str]): Its content, HTML.
        style (str): Rules for what this page alone has. Defaults to none.
    """
    body = '\n'.join(parts)
    # Without a viewport a phone shows a page as wide as that of a desktop.
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{escape(title)}</title><style>{STYLE}{style}</style></head>'
        f'\n<body>\n{body}\n</body></html>\n'
    )


def warnings_list(texts: Sequence[str]) -> str:
    """Returns what to know before the rest is read; nothing if it is empty.

    Args:
        texts (Sequence[str]): Plain text.
    """
    if not texts:
        return ''
    items = ''.join(f'<li>{escape(text)}</li>' for text in texts)
    return f'<ul class="warnings" role="note">{items}</ul>'


def table(head: Sequence[str], rows: Iterable[str]) -> str:
    """Returns a table, which scrolls by itself where it is too wide.

    Args:
        head (Sequence[str]): Plain text above its columns.
        rows (Iterable[str]): From :func:`row`.
    """
    cells = ''.join(f'<th scope="col">{escape(name)}</th>' for name in head)
    # Alone: a table that is too wide would move the whole page sideways.
    return (
        f'<div class="wide"><table><thead><tr>{cells}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div>'
    )


def text_cell(text: str) -> str:
    """Returns a cell of a row that holds words, which may take lines.

    Args:
        text (str): Plain text.
    """
    return f'<td class="text">{escape(text)}</td>'


def row(name: str, cells: Iterable[str]) -> str:
    """Returns a row of a table.

    Args:
        name (str): Plain text at its beginning.
        cells (Iterable[str]): The others, HTML: ``<td>...</td>`` or what
            stands in one.

    Examples:
        >>> row('a', ['1', '<td class="low">2</td>'])
        '<tr><th scope="row">a</th><td>1</td><td class="low">2</td></tr>'
    """
    inner = ''.join(
        cell if cell.startswith('<td') else f'<td>{cell}</td>'
        for cell in cells
    )
    return f'<tr><th scope="row">{escape(name)}</th>{inner}</tr>'
