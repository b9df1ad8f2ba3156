"""Pieces of HTML. Whatever comes from a report is escaped here."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.util import find_spec

from benchmarks.summary import MARKS


def text(words: str, kind: str = "") -> str:
    return f"<p{kind and f' class={kind}'}>{escape(words)}</p>"


def mark(passed: bool | None) -> str:
    """Pass or fail, in a word."""
    kind = {True: " pass", False: " fail", None: ""}[passed]
    return f'<span class="mark{kind}">{MARKS[passed]}</span>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, kind: str = "") -> str:
    """A table that scrolls by itself on a narrow screen; `left` columns of words. Cells that begin with < are HTML already."""
    body = "".join(f"<tr>{_cells('td', row, left)}</tr>" for row in rows)
    head = f"<thead><tr>{_cells('th', header, left)}</tr></thead>"
    return body and f'<div class="scroll"><table class="{kind}">{head}<tbody>{body}</tbody></table></div>'


def _cells(tag: str, cells: Sequence[str], left: int) -> str:
    return "".join(
        f"<{tag}{' class=left' if n < left else ''}>{cell if isinstance(cell, Html) else escape(cell)}</{tag}>"
        for n, cell in enumerate(cells)
    )


class Html(str):
    """A cell that is HTML already."""

    __slots__ = ()


def facts(heading: str, known: dict[str, str]) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>" for name, fact in known.items())
    return f"<div><h3>{heading}</h3><dl>{rows}</dl></div>"


def plots(svgs: Iterable[str]) -> str:
    drawn = "".join(f"<figure>{svg}</figure>" for svg in svgs)
    return drawn and f'<div class="plots">{drawn}</div>'


def drawable() -> bool:
    return find_spec("matplotlib") is not None
