"""A run as one HTML page that needs no other file and no network."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from unified.core.atomic_files import replace_file

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25em .8em .25em 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e4e4e4 }
td.number, th.number { text-align: right }
img { max-width: 100% }
ul.found { list-style: none; padding: 0 }
ul.found li { padding: .45em .8em; margin: .4em 0; border-left: 4px solid #999; background: #f6f6f6 }
ul.found li.problem { border-color: #c0392b; background: #fdf1ef }
p.fine { padding: .45em .8em; border-left: 4px solid #2e8b57; background: #eff8f2 }
.quiet { color: #666 }
"""


OF_TASK = ("samples", "epochs", "time", "MFU")


def write_page(content: Mapping[str, Any], figure: Path, out: Path) -> None:
    """Write the page of a run's report, whole or not at all; `content`: that of run.json, `figure`: a PNG."""
    image = b64encode(figure.read_bytes()).decode("ascii")
    tables = [
        (
            "Tasks",
            ["task", "records", "first loss", "lowest", "at step", "last", *OF_TASK, "metrics, last"],
            tasks(content),
            1,
            6 + len(OF_TASK),
        ),
        ("Experts, last records", ["layer and decision", "effective", "busiest", "idle"], experts(content), 1, 3),
        ("Evaluation", ["result", "first", "lowest", "highest", "last", "at step"], evaluations(content), 1, 6),
        ("Limits", ["name", "value", "what it is, and why"], limits(content), 1, 2),
    ]
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(content["run"])}</title>',
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{escape(content['run'])}</h1>",
        table([], [(escape(name), escape(value)) for name, value in content["facts"].items()], 0, 0),
        "<h2>Diagnosis</h2>",
        diagnoses(content["diagnoses"]),
        "<h2>Curves</h2>",
        f'<img alt="Curves of the run" src="data:image/png;base64,{image}">',
        '<p class="quiet">Dotted upright lines: resumes. Triangles: spikes.</p>',
        *(f"<h2>{title}</h2>{table(head, rows, *right)}" for title, head, rows, *right in tables if rows),
        "</body></html>",
    ]
    replace_file(out, "\n".join(parts) + "\n")


def diagnoses(found: Sequence[Mapping[str, Any]]) -> str:
    """What was found, or that nothing was."""
    if not found:
        return '<p class="fine">Nothing was found by the limits below.</p>'
    items = [f'<li class="{one["level"]}"><b>{one["level"]}</b>: {escape(one["text"])}</li>' for one in found]
    return f'<ul class="found">{"".join(items)}</ul>'


def tasks(content: Mapping[str, Any]) -> list[Sequence[str]]:
    """A row a task."""
    rows: list[Sequence[str]] = []
    for name, one in content["tasks"].items():
        metrics = ", ".join(f"{metric} {number(value)}" for metric, value in one["metrics"].items())
        losses = [number(one["first"]), number(one["lowest"]), str(one["lowest_step"] or "–"), number(one["last"])]
        samples = "–" if one["samples"] is None else f"{one['samples']:,.0f}"
        rest = [samples, number(one["epochs"]), share(one["time"]), share(one["mfu"])]
        rows.append((escape(name), str(one["records"]), *losses, *rest, escape(metrics)))
    return rows


def experts(content: Mapping[str, Any]) -> list[Sequence[str]]:
    """A row a layer and decision."""
    return [
        (
            escape(place),
            f"{one['effective']:.2f} of {len(one['load'])}",
            f"{one['busiest']} ({max(one['load']):.0%})",
            ", ".join(map(str, one["idle"])) or "–",
        )
        for place, one in content["experts"].items()
    ]


def evaluations(content: Mapping[str, Any]) -> list[Sequence[str]]:
    """A row a result; whether high or low is best depends on the metric, so both are given."""
    return [
        (escape(name), *(number(one[key]) for key in ("first", "lowest", "highest", "last")), str(one["step"]))
        for name, one in content["evaluation"].items()
    ]


def limits(content: Mapping[str, Any]) -> list[Sequence[str]]:
    """A row a limit."""
    return [
        (escape(n.replace("_", " ")), f"{one['value']:g}", escape(one["reason"]))
        for n, one in content["limits"].items()
    ]


def share(value: float | None) -> str:
    """A share of a whole; "–" for none."""
    return "–" if value is None else f"{value:.0%}"


def number(value: float | None) -> str:
    """Four digits; "–" for none."""
    return "–" if value is None else f"{value:.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], begin: int, end: int) -> str:
    """Cells are HTML already; columns from `begin` to before `end` are numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        right = [' class="number"' if begin <= column < end else "" for column in range(len(cells))]
        return "".join(f"<{tag}{side}>{cell}</{tag}>" for side, cell in zip(right, cells, strict=True))

    top = f"<tr>{line('th', [escape(name) for name in head])}</tr>" if head else ""
    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f"<table>{top}{body}</table>"
