"""What experiments found: a page of each and a table of all claims in Markdown, one report in HTML, and lines
for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from latex2mathml.converter import convert

from ttr.experiments.page import grid, page, picture
from ttr.experiments.reproduce.experiment import Experiment

HEAD = """# The claims of the paper, and what was measured

Each row is a command; its page has the protocol, the picture and every band. A claim is met if all its
figures lie in their bands for every seed. Shown are the figure that decides, and those that are not met.

| claim | command | measured: mean (lowest to highest seed) | figures in their bands | met | seconds |
|---|---|---|---|---|---|
"""


SIGNS = {True: "ok ", False: "NOT", None: "   "}


def page_of(experiment: Experiment, record: Mapping[str, Any]) -> str:
    """The page of an experiment, in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    machine = record["machine"]
    rows = "".join(
        f"| {band['band']} | {_values(band)} | {_met(band['met'])} |\n" for band in record["bands"]
    )
    return f"""# {experiment.title}

{experiment.claim}

Source: {experiment.source}.

$${experiment.formula}$$

{experiment.protocol}

    ttr reproduce {experiment.name} --scale {record["scale"]}

![{experiment.title}](figure.png)

Lines and diamonds are means over seeds; bands reach from the lowest to the highest seed, dots are seeds.

| what is asked for, of every seed | measured: mean (lowest to highest) | met |
|---|---|---|
{rows}
**{_verdict(record)}.**

{experiment.reading}

{record["seconds"]:.0f} s with {record["jobs"]} process(es); {versions};
{machine["processor"]}, {machine["cores"]} cores.
"""


def table_of_claims(found: Mapping[str, Mapping[str, Any]]) -> str:
    """All claims with what was measured, in Markdown."""
    lines = []
    for name, record in found.items():
        lines.append(
            f"| {record['claim']} | [`ttr reproduce {name} --scale {record['scale']}`]({name}/README.md) | "
            f"{'<br>'.join(_decisive(record))} | {_count(record)} | {_met(record['met'])} | "
            f"{record['seconds']:.0f} |\n"
        )
    total = sum(record["seconds"] for record in found.values())
    return HEAD + "".join(lines) + f"\nIn all {total:.0f} seconds.\n"


def report(
    experiments: Mapping[str, Experiment],
    found: Mapping[str, Mapping[str, Any]],
    pictures: Mapping[str, bytes],
) -> str:
    """All claims on one self-contained HTML page: the table first, then the figure and the bands of each."""
    judged = [record["met"] for record in found.values() if record["met"] is not None]
    body = f'<p class="lead">{sum(judged)} of {len(judged)} claims show here.</p>'
    body += grid(
        ["experiment", "measured", "figures in their bands", "scale", "seconds"],
        [
            (
                record["title"],
                [
                    "<br>".join(map(escape, _decisive(record))),
                    _count(record),
                    record["scale"],
                    f"{record['seconds']:.0f}",
                ],
            )
            for record in found.values()
        ],
    )
    for name, record in found.items():
        experiment = experiments[name]
        body += f"<h2>{escape(record['title'])}</h2><p>{escape(record['claim'])}</p>"
        body += f'<div class="scroll">{convert(experiment.formula, display="block")}</div>'
        body += f'<p class="small">{escape(experiment.source)}. {escape(experiment.protocol)}</p>'
        body += picture(pictures[name], record["title"])
        rows = [(band["band"], [_values(band), _met(band["met"]).strip("*")]) for band in record["bands"]]
        body += grid(["asked for, of every seed", "mean (lowest to highest)", "met"], rows)
        body += f"<p><b>{_verdict(record)}.</b> {escape(experiment.reading)}</p>"
        body += f"<code>ttr reproduce {name} --scale {record['scale']}</code>"
    return page("The claims of Test-time regression", body)


def show(record: Mapping[str, Any]) -> str:
    """A few lines for the terminal."""
    lines = [f"{record['title']}: {_verdict(record)}"]
    lines += [f"  {SIGNS[band['met']]} {band['band']}: {_values(band)}" for band in record["bands"]]
    return "\n".join(lines)


def _verdict(record: Mapping[str, Any]) -> str:
    if record["met"] is None:
        return "This scale is too small to judge the claim"
    return "The claim shows" if record["met"] else "The claim does NOT show here"


def _decisive(record: Mapping[str, Any]) -> list[str]:
    """The first band, and those that are not met, with what was measured."""
    first, *others = record["bands"]
    shown = [first] + [band for band in others if band["met"] is False]
    return [f"{band['band']}: {_values(band)}" for band in shown]


def _count(record: Mapping[str, Any]) -> str:
    met = [band["met"] for band in record["bands"]]
    return "not judged" if None in met else f"{sum(met)} of {len(met)}"


def _values(band: Mapping[str, Any]) -> str:
    values = band["values"]
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.3g}"
    return f"{mean:.3g} ({min(values):.3g} to {max(values):.3g})"


def _met(met: bool | None) -> str:
    if met is None:
        return "not judged"
    return "yes" if met else "**no**"
