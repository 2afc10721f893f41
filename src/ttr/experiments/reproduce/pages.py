"""What experiments found: a page of each and a table of all claims in Markdown, one report in HTML, and lines
for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ttr.experiments.page import grid, page, picture
from ttr.experiments.reproduce.experiment import Experiment

HEAD = """# The claims of the paper, and what was measured

Each row is a command; its page has the protocol, the figure and every band. A claim is met if all its
figures lie in their bands for every seed.

| claim | command | figures in their bands | met | seconds |
|---|---|---|---|---|
"""


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
**{"The claim shows." if record["met"] else "The claim does not show here."}**

{experiment.reading}

{record["seconds"]:.0f} s with {record["jobs"]} process(es); {versions};
{machine["processor"]}, {machine["cores"]} cores.
"""


def table_of_claims(found: Mapping[str, Mapping[str, Any]]) -> str:
    """All claims with what was measured, in Markdown."""
    lines = []
    for name, record in found.items():
        met = sum(band["met"] for band in record["bands"])
        lines.append(
            f"| {record['claim']} | [`ttr reproduce {name} --scale {record['scale']}`]({name}/README.md) | "
            f"{met} of {len(record['bands'])} | {_met(record['met'])} | {record['seconds']:.0f} |\n"
        )
    total = sum(record["seconds"] for record in found.values())
    return HEAD + "".join(lines) + f"\nIn all {total:.0f} seconds.\n"


def report(
    experiments: Mapping[str, Experiment],
    found: Mapping[str, Mapping[str, Any]],
    pictures: Mapping[str, bytes],
) -> str:
    """All claims on one self-contained HTML page: the table first, then the figure and the bands of each."""
    met = sum(record["met"] for record in found.values())
    body = f'<p class="lead">{met} of {len(found)} claims show here.</p>'
    body += grid(
        ["experiment", "figures in their bands", "scale", "seconds"],
        [
            (
                record["title"],
                [
                    f"{sum(band['met'] for band in record['bands'])} of {len(record['bands'])}",
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
        body += f'<p class="small">{escape(experiment.source)}. {escape(experiment.protocol)}</p>'
        body += picture(pictures[name], record["title"])
        rows = [(band["band"], [_values(band), "yes" if band["met"] else "NO"]) for band in record["bands"]]
        body += grid(["asked for, of every seed", "mean (lowest to highest)", "met"], rows)
        body += f"<p>{escape(experiment.reading)}</p>"
        body += f"<code>ttr reproduce {name} --scale {record['scale']}</code>"
    return page("The claims of Test-time regression", body)


def show(record: Mapping[str, Any]) -> str:
    """A few lines for the terminal."""
    lines = [f"{record['title']}: {'the claim shows' if record['met'] else 'THE CLAIM DOES NOT SHOW'}"]
    lines += [
        f"  {'ok ' if band['met'] else 'NOT'} {band['band']}: {_values(band)}" for band in record["bands"]
    ]
    return "\n".join(lines)


def _values(band: Mapping[str, Any]) -> str:
    values = band["values"]
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.3g}"
    return f"{mean:.3g} ({min(values):.3g} to {max(values):.3g})"


def _met(met: bool) -> str:
    return "yes" if met else "**no**"
