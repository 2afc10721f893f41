"""The report of a comparison: a table in the terminal, and one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ttr.experiments.page import grid, page, picture
from ttr.experiments.picture import readable
from ttr.experiments.replacement import replaced
from ttr.experiments.results import MEASURES, PRACTICAL, relation
from ttr.experiments.settings import Recipe
from ttr.experiments.verdict import in_all
from ttr.experiments.words import listed

SHOWN = ("all", "recall")
"""The measures of the table in the terminal, which is to fit 80 columns."""
SPEEDS = ("training", "decoding", "prefill")
BEST, EQUAL = "*", "~"
"""Marks of the best row and of those that are equal to it or not told apart from it."""


def show(results: Mapping[str, Any], console: Console) -> None:
    """Print the table, what its marks mean, and the conclusion."""
    _print_table(results, results["references"], console)
    if "published" in results:
        console.print("In the layers as published:", highlight=False)
        _print_table(results["published"], [], console)
    disturbed, unit = any(row["disturbed"] for row in results["memories"]), results["tokens"]["unit"]
    console.print(
        f"Bits per byte, lower is better, with 95 % intervals. {BEST} best, {EQUAL} equal to it or not told "
        "apart (differences are paired, which is sharper than comparing two intervals). Recall gain: what "
        f"the first half of the window saves on {unit} that can be looked up there. Speeds in {unit} per "
        f"second{_of_one_thread(results)}"
        + ("; ? where something else used the processor.\n" if disturbed else ".\n"),
        highlight=False,
        markup=False,
    )
    for sentence in results["conclusion"]:
        console.print(f"- {sentence}", highlight=False, markup=False)


def _print_table(
    results: Mapping[str, Any], references: Sequence[Mapping[str, Any]], console: Console
) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    table.add_column("memory", overflow="fold", vertical="middle")
    for title in ("all\nbytes", "recall\nslice", "recall\ngain", "state", "training\ndecoding"):
        table.add_column(title, justify="right")
    for row in results["memories"]:
        cells = [
            _two_lines(row["bits_per_byte"][measure], mark(row, results["best"], measure))
            for measure in SHOWN
        ]
        cells.append(_two_lines(row["recall_gain"], " "))
        table.add_row(row["name"], *cells, readable(row["state_bytes"]), _speeds(row))
    for reference in references:
        served = reference if "decoding_tokens_per_second" in reference else None
        table.add_row(
            reference["name"],
            *(_two_lines(reference["bits_per_byte"][measure], " ") for measure in SHOWN),
            _two_lines(reference["recall_gain"], " "),
            *((readable(served["state_bytes"]), _speeds(served)) if served else ()),
            style="dim",
        )
    console.print(table)


def _speeds(row: Mapping[str, Any]) -> str:
    """Training and decoding, and in doubt with a mark."""
    doubt = "?" if row["disturbed"] else ""
    return "\n".join(f"{row[f'{kind}_tokens_per_second']:,.0f}{doubt}" for kind in ("training", "decoding"))


def _two_lines(interval: Mapping[str, float], sign: str) -> Text:
    value = Text(f"{interval['value']:.3f} {sign}", style="bold" if sign == BEST else "")
    return value.append(f"\n{interval['low']:.2f}-{interval['high']:.2f}", style="dim")


def mark(row: Mapping[str, Any], best: Mapping[str, str], measure: str) -> str:
    """The sign of a row in one column: best, not told apart from the best, or neither."""
    if row["name"] == best[measure]:
        return BEST
    return " " if relation(row["behind_best"][measure]) == "behind" else EQUAL


def html(results: Mapping[str, Any], png: bytes) -> str:
    """The report as one self-contained HTML page."""
    first, *more = results["conclusion"]
    sections = [
        f"<h2>The figures</h2><p>{_reading(results)}</p>{_table(results, results['references'])}"
        + LEGEND.format(unit=results["tokens"]["unit"]),
        picture(png, ALT),
    ]
    if "published" in results:
        sections.append(f"<h2>In the layers as published</h2>{_table(results['published'], [])}")
    sections += [
        f"<h2>At equal time</h2>{_at_equal_time(results)}",
        f"<h2>Beyond the training length</h2>{_by_position(results)}",
        f"<h2>What they write</h2>{_samples(results)}",
        f"<h2>What is hard, and what is easy</h2>{_pieces(results)}",
        f"<h2>How it was measured</h2><ul>{_method(results)}</ul>",
    ]
    lead = f'<p class="lead">{escape(first)}</p>'
    lead += "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in more) + "</ul>"
    sections.append(
        f"<h2>How to reproduce it</h2><code>{escape(results['command'])}</code>"
        "<p>The plan in the folder of the results repeats it to the bit, whatever the clock says: "
        "ttr compare --plan plan.json --out another-folder</p>"
        f'<div class="small">{_facts(results)}</div>'
    )
    pretrained = results["start"]["pretrained"]
    title = "Which memory should replace attention?" if pretrained else "Which memory suits this text?"
    return page(title, lead + "\n".join(sections))


def _table(results: Mapping[str, Any], references: Sequence[Mapping[str, Any]]) -> str:
    kinds = [kind for kind in SPEEDS if f"{kind}_tokens_per_second" in results["memories"][0]]
    heads = ["memory", *MEASURES.values(), "recall gain", "copied", "state", *kinds, "seeds"]
    rows = []

    def served(row: Mapping[str, Any]) -> list[str]:
        return [
            readable(row["state_bytes"]),
            *(f"{row[f'{kind}_tokens_per_second']:,.0f}/s" for kind in kinds),
        ]

    for row in results["memories"]:
        cells = [
            _cell(row["bits_per_byte"][measure], mark(row, results["best"], measure)) for measure in MEASURES
        ]
        cells.append(_cell(row["recall_gain"], " "))
        cells += [
            f"{row['copy_accuracy']:.0%}",
            *served(row),
            f"{row['seeds']}<small>rate {row['learning_rate']:g}</small>",
        ]
        rows.append((row["name"], cells))
    for reference in references:
        cells = [_cell(reference["bits_per_byte"][measure], " ") for measure in MEASURES]
        rest = served(reference) if "decoding_tokens_per_second" in reference else [""] * (1 + len(kinds))
        rows.append((reference["name"], [*cells, _cell(reference["recall_gain"], " "), "", *rest, ""]))
    return grid(heads, rows, len(references))


def _cell(interval: Mapping[str, float], sign: str) -> str:
    kind = {BEST: "best", EQUAL: "equal"}.get(sign, "")
    return (
        f'<td class="{kind}">{interval["value"]:.3f}<small>{interval["low"]:.2f} to '
        f"{interval['high']:.2f}</small></td>"
    )


def _reading(results: Mapping[str, Any]) -> str:
    share, tokens = results["recall_slice"]["share"], results["tokens"]
    unit, looked_up = tokens["unit"], tokens["looked_up"]
    return escape(
        "All figures are bits per byte of text that no model was trained on here; lower is better, and one "
        "bit less means twice the probability for the byte that came. The recall slice "
        f"({share:.0%} of the bytes) holds the {unit} whose preceding {looked_up} {unit} occurred earlier in "
        "the same window (runs of a single one left out): there a memory can recall what followed. Recall "
        f"gain and copied: what the first half of the window saves on {unit} that can be looked up there "
        "alone, and how many of these are held most likely. State is the bytes that the layers carry from "
        f"step to step after {results['state_after']:,} {unit}."
    )


def _at_equal_time(results: Mapping[str, Any]) -> str:
    found = results["at_equal_time"]
    bits = sorted(found["bits_per_byte"].items(), key=lambda item: (item[1] is None, item[1]))
    rows = [(name, ["not measured" if value is None else f"{value:.3f}"]) for name, value in bits]
    return (
        "<p>"
        + escape(
            f"After {found['seconds']:.0f} s of one core, in which the fastest memory finished: on a "
            "straight line between the budgets that were trained, over the logarithm of the time."
        )
        + "</p>"
        + grid(["memory", "bits per byte"], rows)
    )


def _by_position(results: Mapping[str, Any]) -> str:
    found, start = results["by_position"], 0
    heads = [f"{results['tokens']['unit']} into the window"]
    for end in found["ends"]:
        heads, start = [*heads, f"{start:,} to {end:,}"], end
    rows = [(name, [f"{value:.3f}" for value in bits]) for name, bits in found["bits_per_byte"].items()]
    longer = found["ends"][-1] // found["ends"][0]
    return (
        f"<p>Bits per byte in windows up to {longer} times as long as those of the training, first seed. "
        "Columns hold different text, the same for all.</p>" + grid(heads, rows, 1)
    )


def _samples(results: Mapping[str, Any]) -> str:
    given = f"{results['given']} {results['tokens']['unit']}"
    given = f"<p>The first {given} are given; the rest is drawn from the model.</p>"
    return given + "".join(
        f"<h3>{escape(name)}</h3><pre>{escape(text)}</pre>" for name, text in results["samples"].items()
    )


def _pieces(results: Mapping[str, Any]) -> str:
    """The windows that are hardest and easiest for the best memory."""
    best = escape(results["best"]["all"])
    found = [f"<p>The windows on which {best} spends most and fewest bits per byte.</p>"]
    for kind in ("hardest", "easiest"):
        for window in results[kind]:
            words = (
                f"{window['bits']:.2f} bits ({results['references'][1]['name']} {window['ngram_bits']:.2f}), "
                f"{window['file']}, from byte {window['byte']:,}"
            )
            found.append(f"<h3>{escape(words)}</h3><pre>{escape(window['text'])}</pre>")
    return "".join(found)


def _method(results: Mapping[str, Any]) -> str:
    s, text, recall = results["settings"], results["text"], results["recall_slice"]
    unit = results["tokens"]["unit"]
    shuffled = max(abs(row["slice_gap_of_shuffled_mask"]["value"]) for row in results["memories"])
    gap = max(abs(row["slice_gap"]["value"]) for row in results["memories"])
    budget = results["budget"]
    items = (
        "Every memory has the same layer around it: a short convolution, unit keys where the update needs "
        "them, rotary positions where pairs have no age, an RMSNorm with an output gate. Its own gates and "
        "what makes its keys are kept."
        + ("" if s["as_published"] else " --as-published compares the published layers too."),
        _models(results),
        _stages(results),
        f"Training: {budget['steps']} steps of {s['batch']} windows of {s['context']} {unit}, the same "
        "windows in the same order for all memories of a seed, AdamW with warm-up and cosine.",
        f"Text: {text['bytes']:,} bytes of {len(text['files'])} file(s), cut into pieces; eight of ten are "
        "for training, one for the choice of learning rates, one for validation: "
        f"{recall['validation_windows']} windows of {recall['validation_bytes']:,} bytes, "
        f"{recall['bytes']:,} in the recall slice.",
        _tokens(results["tokens"]),
        f"Intervals: 95 %, paired bootstrap over windows, {s['resamples']:,} resamples, each moved by what "
        "other seeds could have given (variance pooled over memories). Intervals of a distance to the best "
        "allow for the best having been chosen by the same figures. A memory is behind the best if the "
        f"interval of its distance is above zero and the distance at least {PRACTICAL} bits, equal to it for "
        f"practical purposes if the interval is below {PRACTICAL} bits, and not told apart otherwise.",
        *_power(results),
        "Check: the distance of a memory to the best on the slice minus that off it must vanish if the "
        f"slice is shuffled. Here it is then at most {shuffled:.3f} bits; with the real slice it is up to "
        f"{gap:.3f}.",
        "References: the byte frequencies, the best n-gram of orders 1 to 6 (interpolated Kneser-Ney), and "
        "that with a cache of what followed the same bytes earlier in the window, all counted on exactly the "
        "bytes that the models of the first seed read; and "
        + (
            "the unchanged model, trained on the text as the others are."
            if results["start"]["pretrained"]
            else "a plain transformer in torch alone, trained as the memories are."
        ),
        "Recall gain: the bits per byte that are lost on the text that can be looked up in the first half of "
        f"the window alone ({recall['distant_bytes']:,} bytes), if that is taken from another window.",
        f"Speeds are medians of {unit} per second{_of_one_thread(results)} on this machine, all memories in "
        "turn: training with the batch above, decoding one sequence step by step behind "
        f"{results['state_after']:,} {unit}.",
    )
    return "".join(f"<li>{escape(item)}</li>" for item in items)


def _models(results: Mapping[str, Any]) -> str:
    """What the models of the memories have in common, and where they differ."""
    s, start = results["settings"], results["start"]
    sizes = [row["parameters"] for row in results["memories"]]
    if start["pretrained"]:
        known = {row["name"]: row["distillation_error"] for row in results["memories"]}
        errors = [f"{error:.2g} with {name}" for name, error in known.items() if error is not None]
        return (
            f"Every memory takes the place of {replaced(results)} in {start['pretrained']} "
            f"({start['model']}, sha256 {start['sha256']}), whose projections it keeps where they fit. It "
            f"learns the outputs of that attention for {start['distilled']:g} of the training steps, on text "
            "that is read in the training; the squared error over the squared outputs is then "
            f"{listed(errors)}. Then the whole model is trained on the text, the unchanged model alike. "
            f"Parameters: {min(sizes):,} to {max(sizes):,}, unchanged "
            f"{results['references'][-1]['parameters']:,}. Without dropout, in float32, and without special "
            "tokens. What the model had read before is not known here: if it was this text, its own "
            "attention has an advantage that other text would not give it."
        )
    return (
        f"Every memory is part of the same decoder: {s['depth']} layers, width {s['width']}, "
        f"heads of {s['head_size']}{_larger(s)}. The MLP's width compensates for the parameters of the "
        f"memory: {min(sizes):,} to {max(sizes):,} in all."
    )


def _tokens(tokens: Mapping[str, Any]) -> str:
    """What models read and predict."""
    if tokens["tokenizer"] is None:
        return "Tokens: the bytes of the text."
    return (
        f"Tokens: those of {tokens['tokenizer']} (sha256 {tokens['sha256']}), a vocabulary of "
        f"{tokens['vocabulary']:,}; the text has {tokens['count']:,}, of {tokens['bytes_per_token']:.2f} "
        "bytes each on average. Bits per byte are the bits of all tokens over their bytes. The n-grams and "
        "their cache are of bytes."
    )


def _of_one_thread(results: Mapping[str, Any]) -> str:
    return " of CPU time, one thread" if results["settings"]["device"] == "cpu" else ""


def _larger(settings: Mapping[str, Any]) -> str:
    """That the models are larger than on a few cores, if they are."""
    few = Recipe()
    if settings["width"] <= few.width and settings["depth"] <= few.depth:
        return ""
    return f" (on a few cores {few.depth} layers and width {few.width} if nothing else is asked for)"


def _stages(results: Mapping[str, Any]) -> str:
    """How the learning rates and the number of seeds came about."""
    took = [
        f"{stage['title']} ({stage['runs']} runs"
        + (f", {stage['seconds']:.0f} s)" if stage["seconds"] is not None else ")")
        for stage in results["budget"]["stages"]
    ]
    return (
        "Stages: "
        + "; ".join(took)
        + ". Learning rates are chosen on the tuning pieces by short runs of the first seed; further seeds "
        "go to the memories whose distance to the best is open while time is left."
    )


def _power(results: Mapping[str, Any]) -> list[str]:
    found = results["power"]
    if found is None:
        return ["With one seed the intervals speak of the windows alone."]
    more = (f"{row['detectable']:.2f} with {row['seeds']}{in_all(row)}" for row in found["more_seeds"])
    return [
        f"What this comparison can find: seeds differ by {found['seed_deviation']:.3f} bits, differences "
        f"between memories by {found['window_deviation']:.3f} over windows (standard deviations). With "
        f"{found['seeds']} seeds equal memories are told apart in {found['false_alarms']:.1%} of cases, and "
        f"a difference of {found['detectable']:.2f} bits is found in four of five. More seeds of every "
        f"memory would find, at as many steps: {'; '.join(more)}."
    ]


def _facts(results: Mapping[str, Any]) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    versions += f"; {machine['processor']}, {machine['cores']} cores, kernels: {machine['native']}"
    files = (
        results["text"]["files"]
        if results["settings"]["files"]
        else ["the modules of Python's own standard library"]
    )
    names = ", ".join(files[:8]) + (f" and {len(files) - 8} more" if len(files) > 8 else "")
    return f"<p>{escape(versions)}</p><p>Text: {escape(names)}<br>sha256 {results['text']['sha256']}</p>"


ALT = "Bits per byte with intervals, recall against state size, validation curves, and bits by position"
LEGEND = """<p class="small legend"><span style="background:#d7ebf7">best</span>
<span style="background:#eef6fb">equal to the best, or not told apart from it</span>
small figures: 95 % intervals; training and decoding in {unit} per second</p>"""
