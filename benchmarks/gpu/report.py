"""Rows as a table for people, which is Markdown too."""

from collections.abc import Mapping, Sequence
from typing import Any

HEADINGS = ("section", "part", "status", "s", "numbers")
AIMS = {"dense": ("MFU", ">=", 0.45), "attribute": ("ms", "<=", 1.10), "token": ("ms", "<=", 1.25)}
"""What steps are to reach on a GPU: a number of the dense one, and those of the others over its own."""


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a row, then the kernels of each part that has some, then tracebacks."""
    cells = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(HEADINGS) - 1)]
    lines = [_line(line, widths) for line in cells]
    lines.insert(1, _line(tuple("-" * width for width in (*widths, 7)), widths))
    machine: Mapping[str, Any] = next((row["machine"] for row in rows if "machine" in row), {})
    about = ", ".join(f"{name} {value}" for name, value in machine.items())
    parts = [about, "\n".join(lines), aims(rows), *_kernels(rows), *_tracebacks(rows)]
    return "\n\n".join(part for part in parts if part)


def aims(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the steps of a GPU reach of `AIMS`."""
    steps = {row["part"]: row["numbers"] for row in rows if row["section"] == "steps" and row["status"] == "ok"}
    lines = []
    for part, (name, sign, aim) in AIMS.items():
        if not {part, "dense"} <= steps.keys() or not any("cuda" in row["machine"] for row in rows):
            continue
        value = steps[part][name] / (1.0 if part == "dense" else steps["dense"][name])
        reached = value >= aim if sign == ">=" else value <= aim
        what = f"{part} {name}" if part == "dense" else f"{part} / dense, {name}"
        lines.append(f"{what}: {value:.3f}, aim {sign} {aim:.2f}, {'reached' if reached else 'MISSED'}")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = row.get("numbers", {})
    said = [row["reason"]] if "reason" in row else []
    said += [f"{name} {shown(value)}" for name, value in numbers.items() if not isinstance(value, list)]
    if not said and "traceback" in row:
        said = [row["traceback"].strip().splitlines()[-1]]
    seconds = f"{row['seconds']:.1f}" if "seconds" in row else ""
    return row["section"], row["part"], row["status"], seconds, ", ".join(said).replace("|", "/").replace("\n", " ")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells[:-1], widths, strict=True)]
    return f"| {' | '.join([*padded, cells[-1]])} |"


def shown(value: Any) -> str:
    """A number in as many digits as one reads."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return " ".join(f"{name}×{count}" for name, count in value.items()) or "–"
    return "–" if value is None else str(value)


def _kernels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for row in rows:
        kernels = row.get("numbers", {}).get("kernels", [])
        lines = [f"    {k['share']:>6.1%}  {k['ms']:>9.3f} ms  {k['calls']:>5}×  {k['name']}" for k in kernels]
        if lines:
            found.append("\n".join([f"{row['section']}, {row['part']}: most time in", "", *lines]))
    return found


def _tracebacks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        "\n".join([f"{row['section']}, {row['part']}:", "", *(f"    {line}" for line in row["traceback"].splitlines())])
        for row in rows
        if "traceback" in row
    ]
