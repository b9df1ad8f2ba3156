"""report.html: one page with everything in it. Without matplotlib it has all figures and no plots."""

from html import escape
from pathlib import Path

from benchmarks import figures
from benchmarks.pieces import Html, facts, mark, table, text
from benchmarks.ratios import TITLES, Against, Ratio, named, ratios, wanted, written
from benchmarks.results import Report
from benchmarks.summary import margin, ms, shortfall, summary, title_of, warnings

STYLE = Path(__file__).with_name("report.css")
SECTIONS = {
    "targets": "Targets",
    "latency": "Latency",
    "connections": "Many connections",
    "growth": "Growth",
    "peers": "Peers",
    "left-out": "Left out",
    "again": "To do it again",
}


def page(report: Report) -> str:
    """The whole document."""
    parts = {
        "targets": _targets(report),
        "latency": figures.latency(report),
        "connections": figures.connections(report),
        "growth": figures.growth(report),
        "peers": figures.peers(report),
        "left-out": _left_out(report),
        "again": _again(report),
    }
    there = {name: part for name, part in parts.items() if part}
    sections = "".join(
        f'<section id="{name}"><h2>{SECTIONS[name]}</h2>{part}</section>' for name, part in there.items()
    )
    links = "".join(f'<a href="#{name}">{SECTIONS[name]}</a>' for name in there)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Roundtrip, benchmarks of {report.started:%Y-%m-%d}</title><style>{STYLE.read_text()}</style></head>"
        f"<body><header><h1>Roundtrip, measured</h1>{_when(report)}<nav>{links}</nav></header>"
        f"<main>{_summary(report)}{sections}</main></body></html>\n"
    )


def _when(report: Report) -> str:
    minutes, seconds = divmod(round(report.duration_s), 60)
    machine = [report.machine[name] for name in ("CPU", "memory") if name in report.machine]
    cores = [f"{report.machine['cores']} cores"] if "cores" in report.machine else []
    data = [f"{number:,} {what}" for what, number in report.data.items()]
    return text(
        f"{report.started:%Y-%m-%d %H:%M} UTC, {minutes} min {seconds} s; {', '.join([*machine, *cores])}; "
        f"{', '.join(data)}.",
        "quiet",
    )


def _summary(report: Report) -> str:
    lines = "".join(
        f"<li><div>{mark(line.passed)}</div><div><strong>{escape(line.title)}</strong> {escape(line.text)}</div></li>"
        for line in summary(report)
    )
    notes = "".join(text(note, "note") for note in warnings(report))
    return f'{notes}<ul class="summary">{lines}</ul>{_ratios(report)}'


def _ratios(report: Report) -> str:
    found = ratios(report)
    if all(ratio.found is None for ratio in found):
        return ""
    asked = wanted()
    rows = [
        [_against(against), *(_ratio(ratio) for ratio in found if ratio.against == against)]
        for against in asked.against
    ]
    header = [f"at {asked.connections} connections, x", *TITLES.values()]
    short = "".join(f"<li>{escape(shortfall(ratio))}</li>" for ratio in found if ratio.short)
    whose = {r.against.peer: r.why for r in found if r.found is None}
    gone = "".join(f"<li>{escape(f'Not measured against {peer}: {why}')}</li>" for peer, why in whose.items())
    return (
        "<h3>How many times as many requests a second as its peers</h3>"
        + table(header, rows, left=9, kind="ratios")
        + (short and f"<h3>What falls short</h3><ul class=short>{short}</ul>")
        + (gone and f"<ul class=short>{gone}</ul>")
    )


def _against(against: Against) -> Html:
    return Html(f"{escape(against.peer)}<small>{escape(against.note)}</small>")


def _ratio(ratio: Ratio) -> Html:
    if ratio.found is None:
        return Html(f"-<small>{ratio.wanted:g} wanted</small>")
    return Html(
        f"{mark(ratio.reached)} <strong>{written(ratio.found)}</strong><small>{ratio.wanted:g} wanted</small>"
    )


def _targets(report: Report) -> str:
    rows = [
        (
            v.target,
            Html(mark(v.passed)),
            v.where,
            f"{v.limit_ms:g}",
            ms(v.p99_ms),
            f"{margin(v):.0f} %",
            f"{v.requests:,}",
            v.source,
        )
        for v in report.verdicts
    ]
    header = (
        "target",
        "",
        "measured through",
        "limit, ms",
        "p99, ms",
        "to spare",
        "requests",
        "asked for in",
    )
    return table(header, rows, left=3)


def _left_out(report: Report) -> str:
    gone = dict(report.left_out)
    gone |= {f"{title_of(c)}, {c.x}": c.absent for c in report.curves if c.absent}
    gone |= {named(peer): peer.absent for peer in report.peers if peer.absent}
    return facts("", gone).replace("<h3></h3>", "") if gone else text("Nothing.")


def _again(report: Report) -> str:
    commands = "\n".join(
        [
            f"$ {report.command}",
            "$ uv run --group bench roundtrip bench           # all of it",
            "$ uv run --group bench roundtrip bench --quick   # in 90 seconds",
            "$ uv run --group bench roundtrip bench --scenario growth --scenario peers",
        ]
    )
    columns = facts("Machine", report.machine) + facts("Versions", report.versions)
    return f"<pre>{escape(commands)}</pre><div class=facts>{columns}</div>"
