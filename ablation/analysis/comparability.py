"""Configuration keys that runs share or differ in, and reasons to doubt a comparison of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ablation.analysis.results import Results
from system.words import count

_KEYS_OF_ONE_RUN = {"seed", "run", "resume", "display"}
"""Keys that differ between runs of one variant, and that change nothing but the random numbers."""

_TOLERANCE = 0.01
"""Numbers of parameters or frames that differ by at most this share count as equal."""


class Configs(NamedTuple):
    """The configuration keys of all runs, dotted; a missing value is an empty text.

    Attributes:
        different: Keys in which variants differ, with the value of each variant, or all values if its runs differ.
        shared: Keys with the same value in all runs.
        within: Keys in which runs of one variant differ, other than tuned ones.
    """

    different: Mapping[str, Mapping[str, str]]
    shared: Mapping[str, str]
    within: tuple[str, ...]


def configs(results: Results) -> Configs:
    """Sorts the keys of all runs."""
    different: dict[str, dict[str, str]] = {}
    shared: dict[str, str] = {}
    within = []
    tuned = {key for choice in results.choices for run in choice.runs for key in run.values}
    for key in sorted({key for run in results.runs for key in run.config} - _KEYS_OF_ONE_RUN):
        values = {
            variant: _distinct(format_value(run.config.get(key, "")) for run in results.of(variant))
            for variant in results.variants
        }
        if any(len(found) > 1 for found in values.values()) and key.removesuffix(".name") not in tuned:
            within.append(key)
        texts = {variant: " | ".join(found) for variant, found in values.items()}
        if len({text for found in values.values() for text in found}) > 1:
            different[key] = texts
        else:
            shared[key] = texts[results.variants[0]]
    return Configs(different, shared, tuple(within))


def format_value(value: Any) -> str:
    """A value in the spelling of the command line."""
    if isinstance(value, bool | None):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(format_value, value))}]"
    return str(value)


def cautions(results: Results, found: Configs) -> Iterator[str]:
    """Sentences on what makes the results less certain, or a comparison less fair, than they look."""
    runs = results.runs
    commits = _distinct(str(run.provenance.get("git", {}).get("commit", "unknown"))[:12] for run in runs)
    if len(commits) > 1:
        yield f"The runs come from {len(commits)} different commits: {', '.join(commits)}."
    for what, section in (("machines", "machine"), ("versions", "versions")):
        sections = [run.provenance.get(section, {}) for run in runs]
        keys = _distinct(key for each in sections for key in each)
        values = {key: _distinct(str(each.get(key, "none")) for each in sections) for key in keys}
        differences = [f"{key} {' or '.join(texts)}" for key, texts in values.items() if len(texts) > 1]
        if differences:
            yield f"The runs come from different {what}: {'; '.join(differences)}."
    dirty = sum(bool(run.provenance.get("git", {}).get("dirty")) for run in runs)
    if dirty:
        yield (
            f"{dirty} of {count(len(runs), 'run')} had changes that were not committed: the commit does not tell all of the code."
        )
    parameters = [[run.parameters for variant in group for run in results.of(variant)] for group in results.groups]
    least, most = max(((min(group), max(group)) for group in parameters), key=lambda ends: ends[1] / max(1, ends[0]))
    if most > least * (1 + _TOLERANCE) and len(results.variants) == 1:
        yield f"The runs have agents of {least:,} to {most:,} parameters."
    elif most > least * (1 + _TOLERANCE):
        of_width = " of a width" if results.widths else ""
        yield (
            f"The smallest agent{of_width} has {count(least, 'parameter')} and the largest {most:,}: a difference may be one of size."
        )
    # A run ends with the update that passes its last frame, so small differences are normal.
    least, most = min(run.frames for run in runs), max(run.frames for run in runs)
    if most > least * (1 + _TOLERANCE):
        yield f"The runs have different numbers of frames: {least:,} to {most:,}."
    episodes = _distinct(f"{run.episodes:,}" for run in runs)
    if len(episodes) > 1:
        yield f"The runs have different numbers of evaluation episodes: {', '.join(episodes)}."
    sizes = {variant: len(results.of(variant)) for variant in results.variants}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{variant} {size}" for variant, size in sizes.items())
        yield f"The variants have different numbers of runs: {listed}."
    if min(sizes.values()) < 2:
        yield "A variant with a single run has no intervals: nothing tells how much another seed would change."
    if found.within and len(results.variants) == 1:
        yield f"More than the seed varies between the runs: {', '.join(found.within)}."
    elif found.within:
        yield f"Runs of one variant differ in more than their seed: {', '.join(found.within)}."


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
