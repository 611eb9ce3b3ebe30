"""Short cards: what a result prints in a terminal and shows in a notebook."""

import html
from collections.abc import Mapping


def text_card(title: str, rows: Mapping[str, str]) -> str:
    """Returns the title and one indented line for each row.

    >>> print(text_card("dqn on CartPole-v1", {"env steps": "50,000", "best": "500"}))
    dqn on CartPole-v1
      env steps  50,000
      best       500
    """
    width = max(map(len, rows), default=0)
    return "\n".join([title, *(f"  {name:{width}}  {value}" for name, value in rows.items())])


def html_card(title: str, rows: Mapping[str, str]) -> str:
    """Returns the same as an HTML table, for `_repr_html_`."""
    lines = [
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in rows.items()
    ]
    return f"<table><caption><b>{html.escape(title)}</b></caption>{''.join(lines)}</table>"
