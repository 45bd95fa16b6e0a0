"""The rows as a Markdown table."""

from collections.abc import Mapping, Sequence

from benchmarks.studies.quality.scores import Question, Score
from benchmarks.studies.quality.summary import Estimate, Row

NOTE = (
    "± is the standard error over training seeds. Gap: the relative difference to the specialists, averaged over the "
    "{tasks} tasks ({names}); positive is better.{transfer} "
    "Interference: what a small step for one task does to the loss of another, as a share of what a step for that task "
    "does, the median over pairs; negative is conflict. Active parameters are those that a token passes; of merged "
    "experts one merged linear."
)


def markdown(
    rows: Sequence[Row],
    questions: Mapping[str, Question],
    tasks: Sequence[str],
    sampling: Mapping[str, Score],
) -> str:
    """The table with its note."""
    asked = list(questions)
    head = ["model", "seeds", *(f"{name}: {questions[name].title} {_arrow(questions[name])}" for name in asked)]
    head += ["gap, %", "interference", "parameters", "active", "training, s"]
    lines = [
        [
            row.variant,
            str(next(iter(row.scores.values())).seeds),
            *(_cell(row.scores.get(name), questions[name]) for name in asked),
            _percent(row.gap),
            _share(row.interference),
            f"{row.stored / 1e6:.2f} M",
            f"{row.active / 1e6:.2f} M",
            f"{row.seconds:.0f}",
        ]
        for row in rows
    ]
    blank = [""] * (len(head) - len(asked) - 2)
    errors = [f"± {_number(sampling[n].error, questions[n])}" if n in sampling else "–" for n in asked]
    lines.append(["*sampling error of one run*", "", *errors, *blank])
    lines.append(["*items*", "", *(f"{sampling[n].n:,}" if n in sampling else "–" for n in asked), *blank])
    others = [name for name in asked if name not in tasks]
    transfer = f" Transfer, not counted: {', '.join(others)}." if others else ""
    note = NOTE.format(tasks=len(tasks), names=", ".join(tasks), transfer=transfer)
    return f"{_aligned(head, lines)}\n\n{note}\n{_differences(rows, tasks)}"


def _differences(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """Of which tasks a gap is made: one that the specialists hardly learn can outweigh all others."""
    compared = [row for row in rows if row.gap is not None]
    if not compared:
        return ""
    lines = [[row.variant, *(f"{100 * row.by_task[task]:+.1f}" for task in tasks)] for row in compared]
    return f"\nThe gap by task, %:\n\n{_aligned(['model', *tasks], lines)}\n"


def _arrow(question: Question) -> str:
    return "↑" if question.higher_is_better else "↓"


def _number(value: float, question: Question) -> str:
    """Shares in percent, losses in nats."""
    return f"{100 * value:.1f}" if question.higher_is_better else f"{value:.3f}"


def _cell(found: Estimate | None, question: Question) -> str:
    if found is None:
        return "–"
    value = _number(found.mean, question)
    return value if found.error is None else f"{value} ± {_number(found.error, question)}"


def _percent(found: Estimate | None) -> str:
    if found is None:
        return "–"
    return f"{100 * found.mean:+.1f}" + ("" if found.error is None else f" ± {100 * found.error:.1f}")


def _share(found: Estimate | None) -> str:
    if found is None:
        return "–"
    return f"{found.mean:+.2f}" + ("" if found.error is None else f" ± {found.error:.2f}")


def _aligned(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]

    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(c.ljust(w) for c, w in zip(cells, widths, strict=True))} |"

    return "\n".join([row(head), f"|{'|'.join('-' * (w + 2) for w in widths)}|", *map(row, lines)])
