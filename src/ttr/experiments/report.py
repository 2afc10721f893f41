"""The report of a comparison: a table in the terminal, and one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ttr.experiments.picture import readable
from ttr.experiments.results import MEASURES, PRACTICAL, separable

SHOWN = ("all", "recall")
"""The measures of the table in the terminal, which is to fit 80 columns."""
BEST, EQUAL = "*", "~"
"""Marks of the best row and of those that are statistically indistinguishable from it."""


def show(results: Mapping[str, Any], console: Console) -> None:
    """Print the table, what its marks mean, and the conclusion."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    table.add_column("memory", overflow="fold", vertical="middle")
    for title in ("all\nbytes", "recall\nslice", "recall\ngain", "state", "training\ndecoding"):
        table.add_column(title, justify="right")
    for row in results["memories"]:
        cells = [
            _two_lines(row["bits_per_byte"][measure], mark(row, results["best"], measure))
            for measure in SHOWN
        ]
        doubt = "?" if row["disturbed"] else ""
        speeds = (
            f"{row['training_tokens_per_second']:,.0f}/s{doubt}\n"
            f"{row['decoding_tokens_per_second']:,.0f}/s{doubt}"
        )
        cells.append(_two_lines(row["recall_gain"], " "))
        table.add_row(row["name"], *cells, readable(row["state_bytes"]), speeds)
    for reference in results["references"]:
        table.add_row(
            reference["name"],
            *(_two_lines(reference["bits_per_byte"][measure], " ") for measure in SHOWN),
            _two_lines(reference["recall_gain"], " "),
            style="dim",
        )
    console.print(table)
    disturbed = any(row["disturbed"] for row in results["memories"])
    console.print(
        f"Bits per byte, lower is better, with 95 % intervals. {BEST} best, {EQUAL} statistically "
        "indistinguishable from it (differences are paired, which is sharper than comparing two "
        "intervals). Recall gain: what the first half of the window saves on bytes that can be looked up "
        "there. Speeds in bytes per second of CPU time, one thread"
        + ("; ? where something else used the processor.\n" if disturbed else ".\n"),
        highlight=False,
        markup=False,
    )
    for sentence in results["conclusion"]:
        console.print(f"- {sentence}", highlight=False, markup=False)


def _two_lines(interval: Mapping[str, float], sign: str) -> Text:
    value = Text(f"{interval['value']:.3f} {sign}", style="bold" if sign == BEST else "")
    return value.append(f"\n{interval['low']:.2f}-{interval['high']:.2f}", style="dim")


def mark(row: Mapping[str, Any], best: Mapping[str, str], measure: str) -> str:
    """The sign of a row in one column: best, not separable from the best, or neither."""
    if row["name"] == best[measure]:
        return BEST
    return " " if separable(row, measure) else EQUAL


def html(results: Mapping[str, Any], png: bytes) -> str:
    """The report as one self-contained HTML page."""
    first, *more = results["conclusion"]
    image = base64.b64encode(png).decode()
    return PAGE.format(
        first=escape(first),
        more="".join(f"<li>{escape(s)}</li>" for s in more),
        table=_table(results),
        image=image,
        reading=_reading(results),
        method=_method(results),
        command=escape(results["command"]),
        facts=_facts(results),
    )


def _table(results: Mapping[str, Any]) -> str:
    heads = [
        "memory",
        *MEASURES.values(),
        "behind the best (recall)",
        "recall gain",
        "state",
        "training",
        "decoding",
        "learning rate",
    ]
    rows = ["".join(f"<th>{escape(head)}</th>" for head in heads)]
    for row in results["memories"]:
        cells = [f"<th>{escape(row['name'])}</th>"]
        cells += [
            _cell(row["bits_per_byte"][measure], mark(row, results["best"], measure)) for measure in MEASURES
        ]
        cells += [_cell(row["behind_best"]["recall"], " "), _cell(row["recall_gain"], " ")]
        cells += [
            f"<td>{value}</td>"
            for value in (
                readable(row["state_bytes"]),
                f"{row['training_tokens_per_second']:,.0f}/s",
                f"{row['decoding_tokens_per_second']:,.0f}/s",
                f"{row['learning_rate']:g}",
            )
        ]
        rows.append("".join(cells))
    for reference in results["references"]:
        rows.append(
            f"<th>{escape(reference['name'])}</th>"
            + "".join(_cell(reference["bits_per_byte"][m], " ") for m in MEASURES)
            + "<td></td>"
            + _cell(reference["recall_gain"], " ")
            + "<td></td>" * 4
        )
    plain = len(rows) - len(results["references"])
    return "".join(
        f"<tr{' class=reference' * (number >= plain)}>{row}</tr>" for number, row in enumerate(rows)
    )


def _cell(interval: Mapping[str, float], sign: str) -> str:
    kind = {BEST: "best", EQUAL: "equal"}.get(sign, "")
    return (
        f'<td class="{kind}">{interval["value"]:.3f}<small>{interval["low"]:.3f} to '
        f"{interval['high']:.3f}</small></td>"
    )


def _reading(results: Mapping[str, Any]) -> str:
    settings, share = results["settings"], results["recall_slice"]["share"]
    return escape(
        "All figures are bits per byte of text that no model was trained on; lower is better, and one bit "
        "less means twice the probability for the "
        f"byte that came. The recall slice is the {share:.0%} of bytes whose preceding {settings['ngram']} "
        "bytes occurred earlier in the same window (runs of one byte left out): there a memory can recall "
        "the byte that followed. State is the bytes that the layers carry from one byte to the next after "
        f"{settings['context']} bytes."
    )


def _method(results: Mapping[str, Any]) -> str:
    s, text, recall = results["settings"], results["text"], results["recall_slice"]
    sizes = [row["parameters"] for row in results["memories"]]
    seeds = (
        f"{s['seeds']} seeds from {s['seed']}"
        if s["seeds"] > 1
        else (f"one seed ({s['seed']}); --seeds N adds the variation between seeds")
    )
    shuffled = max(abs(row["slice_gap_of_shuffled_mask"]["value"]) for row in results["memories"])
    gap = max(abs(row["slice_gap"]["value"]) for row in results["memories"])
    items = (
        _layers(s["as_published"]),
        f"Every memory is part of the same byte-level decoder: {s['depth']} layers, width {s['width']}, "
        f"heads of {s['head_size']}. The MLP's width compensates for the parameters of the memory: "
        f"{min(sizes):,} to {max(sizes):,} in all.",
        f"Training: {s['steps']} steps of {s['batch']} windows of {s['context']} bytes, the same windows in "
        "the same order for all, AdamW with "
        f"warm-up and cosine; {seeds}.",
        _rates(results),
        f"Text: {text['bytes']:,} bytes of {len(text['files'])} file(s), cut into pieces; eight of ten are "
        "for training, one for the choice of learning rates, one for validation: "
        f"{recall['validation_windows']} windows of {recall['validation_bytes']:,} bytes, "
        f"{recall['bytes']:,} in the recall slice.",
        f"Intervals: 95 %, paired bootstrap over windows, {s['resamples']:,} resamples, each moved by what "
        "other seeds could have given (variance pooled over memories). A memory "
        "is marked as indistinguishable if the interval of its distance to the best includes zero, or the "
        f"distance is below {PRACTICAL} bits. The best was chosen by the same figures, so check a narrow "
        "lead with another seed.",
        "Check: the distance of a memory to the best on the slice minus that off it must vanish if the "
        f"slice is shuffled. Here it is then at most {shuffled:.3f} bits; with the real slice it is up to "
        f"{gap:.3f}.",
        "References, without training: the byte frequencies, the best n-gram of orders 1 to 6 (interpolated "
        "Kneser-Ney), and that with a cache of what followed the same bytes earlier in the window, all "
        "counted on exactly the bytes that the models read; their settings were chosen on the tuning pieces.",
        "Recall gain: what the first half of the window is worth on the "
        f"{recall['distant_bytes']:,} bytes that can be looked up there alone, as the bits per byte that are "
        "lost when it is replaced by that of another window.",
        "Speeds are medians of CPU time in one thread on this machine, all memories in turn: training with "
        "the batch above, decoding one sequence byte by byte.",
    )
    return "".join(f"<li>{escape(item)}</li>" for item in items)


def _layers(as_published: bool) -> str:
    if as_published:
        return (
            "The layers are compared as they were published: convolutions, norms, positions and output gates "
            "differ beside the memories."
        )
    return (
        "Every memory has the same layer around it: a short convolution, unit keys where the update needs "
        "them, rotary positions where pairs have no age, an RMSNorm with an output gate. Its own gates and "
        "what makes its keys are kept. --as-published compares the published layers."
    )


def _rates(results: Mapping[str, Any]) -> str:
    if results["settings"]["tune_lr"]:
        return (
            "Three learning rates were tried for each memory with the first seed; the best on the tuning "
            "pieces was kept."
        )
    rate = results["memories"][0]["learning_rate"]
    return (
        f"One learning rate for all, {rate:g}: a memory with another optimum is at a disadvantage. "
        "--tune-lr tries three for each."
    )


def _facts(results: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    files = (
        results["text"]["files"]
        if results["settings"]["files"]
        else ["the modules of Python's own standard library"]
    )
    names = ", ".join(files[:8]) + (f" and {len(files) - 8} more" if len(files) > 8 else "")
    return f"<p>{escape(versions)}</p><p>Text: {escape(names)}<br>sha256 {results['text']['sha256']}</p>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Which memory suits this text?</title>
<style>
:root {{ color-scheme: light }}
body {{ font: 17px/1.55 Georgia, "Times New Roman", serif; color: #1c1c1c; background: #fdfdfb }}
body {{ max-width: 64rem; margin: 3rem auto; padding: 0 1.5rem }}
h1 {{ font-size: 1.9rem; margin: 0 0 1rem }} h2 {{ font-size: 1.2rem; margin: 2.5rem 0 .5rem }}
.lead {{ font-size: 1.2rem; border-left: 4px solid #0072B2; padding-left: 1rem }}
.scroll {{ overflow-x: auto }}
table {{ border-collapse: collapse; width: 100% }}
table {{ font: 14px/1.35 system-ui, sans-serif; font-variant-numeric: tabular-nums }}
th, td {{ padding: .45rem .7rem; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top }}
tr > th:first-child {{ text-align: left }} tr:first-child th {{ border-bottom: 2px solid #444 }}
tr.reference {{ color: #777 }}
td small {{ display: block; color: #777 }}
td.best {{ background: #d7ebf7; font-weight: 600 }} td.equal {{ background: #eef6fb }}
.legend span {{ padding: 0 .4em }}
img {{ width: 100%; margin: 1rem 0 }}
code {{ display: block; background: #f1f1ec; padding: .8rem 1rem; overflow-x: auto; font-size: 14px }}
.small {{ font-size: .9rem; color: #555 }}
</style></head><body>
<h1>Which memory suits this text?</h1>
<p class="lead">{first}</p>
<ul>{more}</ul>
<h2>The figures</h2>
<p>{reading}</p>
<div class="scroll"><table>{table}</table></div>
<p class="small legend"><span style="background:#d7ebf7">best</span>
<span style="background:#eef6fb">indistinguishable from the best</span>
small figures: 95 % intervals; training and decoding in bytes per second</p>
<img alt="Bits per byte with intervals, recall against state size, and learning curves"
src="data:image/png;base64,{image}">
<h2>How it was measured</h2>
<ul>{method}</ul>
<h2>How to reproduce it</h2>
<code>{command}</code>
<div class="small">{facts}</div>
</body></html>
"""
