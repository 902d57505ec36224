"""Tables of a tuned grid: the chosen values with the sensitivity to them, and the whole search."""

from __future__ import annotations

from ablation.analysis import numbers
from ablation.analysis.numbers import Write
from ablation.analysis.results import Analysis, Results
from ablation.analysis.tuning import describe_chosen, describe_values
from ablation.report.tables import Data, Table, pivot
from system.words import count


def tuning_tables(results: Results, analysis: Analysis) -> dict[str, Table]:
    """By name, in the order of the report; empty for a grid without tuning."""
    if not analysis.tuning:
        return {}
    write = numbers.of_measure(results.measure)
    return {table.data.name: table for table in (_chosen(analysis, write), _search(results, analysis, write))}


def _chosen(analysis: Analysis, write: Write) -> Table:
    rows, texts = [], []
    for variant, tuning in analysis.tuning.items():
        chosen = describe_chosen(tuning)
        means = [one.mean for one in tuning.combinations if one.runs]
        best = max(means, default=float("nan"))
        runs = sum(len(one.runs) for one in tuning.combinations)
        rows.append((variant, chosen, tuning.measure, best, tuning.spread, runs, len(tuning.failed), tuning.frames))
        shown = map(write, (best, tuning.spread))
        texts.append(
            (variant, chosen or "none", *shown, str(runs), str(len(tuning.failed)), numbers.count(tuning.frames))
        )
    measures = " or ".join(dict.fromkeys(tuning.measure or "measure" for tuning in analysis.tuning.values()))
    frames = sum(tuning.frames for tuning in analysis.tuning.values())
    return Table(
        Data("tuned_values", ("variant", "chosen", "measure", "best_mean", "spread", "runs", "failed", "frames"), rows),
        f"Tuned values, from {count(frames, 'frame')} of tuning",
        ("variant", "chosen", f"best mean {measures}", "spread over values", "tuning runs", "failed", "frames"),
        texts,
        numeric=False,
    )


def _search(results: Results, analysis: Analysis, write: Write) -> Table:
    """CSV: a row for each tuning run; text: a row for each variant and combination of values, a column for each tuning seed."""
    rows = [
        (
            *(choice.variant, choice.seed, run.run, run.seed, describe_values(run.values), choice.measure),
            *(run.value, run.frames, run.values == choice.chosen, run.reason),
        )
        for choice in results.choices
        for run in choice.runs
    ]
    header = ("variant", "seed", "run", "tuning_seed", "values", "measure", "value", "frames", "chosen", "reason")
    cells: list[tuple[str, str, str]] = []
    for choice in results.choices:
        for run in choice.runs:
            value = "failed" if run.value is None else write(run.value)
            row = f"{choice.variant}: {describe_values(run.values)}"
            cells.append((row, f"seed {run.seed}", f"{value} *" if run.values == choice.chosen else value))
    columns = ["mean", *dict.fromkeys(column for _, column, _ in cells)]
    cells += [
        (f"{variant}: {describe_values(one.values)}", "mean", write(one.mean))
        for variant, tuning in analysis.tuning.items()
        for one in tuning.combinations
    ]
    shown = pivot("variant: values", dict.fromkeys(row for row, _, _ in cells), columns, cells, missing="-")
    return Table(Data("tuning", header, rows), "Tuning: the whole search (* chosen)", *shown)
