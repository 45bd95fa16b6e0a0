"""Interleaved timing: what machines share disturbs both sides alike, and the best of many rounds counts."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured ratio and what it should reach."""

    name: str
    ratio: float
    target: str  # such as "<= 1.00" or ">= 0.90"; "-" where there is none
    detail: str = ""

    def reached(self) -> bool | None:
        """Whether the ratio meets its target; None without one."""
        sign, _, bound = self.target.partition(" ")
        if not bound:
            return None
        return self.ratio <= float(bound) if sign == "<=" else self.ratio >= float(bound)


def best_seconds(sides: Mapping[str, Callable[[], object]], rounds: int = 9) -> dict[str, float]:
    """The shortest time of each side over `rounds` rounds A B A B …, after one round to warm up."""
    best = dict.fromkeys(sides, float("inf"))
    for number in range(rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            elapsed = time.perf_counter() - start
            if number:
                best[name] = min(best[name], elapsed)
    return best


def table(rows: list[Row]) -> str:
    """The rows as text for people."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'what':<{width}}  {'ratio':>6}  {'target':>8}      detail"]
    for row in rows:
        verdict = {True: "ok", False: "MISSED", None: ""}[row.reached()]
        lines.append(f"{row.name:<{width}}  {row.ratio:>6.2f}  {row.target:>8}  {verdict:<6}  {row.detail}")
    return "\n".join(lines)
