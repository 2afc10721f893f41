"""Generates the pages of docs/ that come from the code: ``python -m ttr.documentation docs`` (``make
docs``)."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path

import ttr
from ttr import combinations, distributed, rooms
from ttr.combinations import brief
from ttr.engines import ENGINES
from ttr.explain import APPROXIMATE, SOURCE, explain, state_words
from ttr.layer.architecture import Architecture
from ttr.layer.heads import undivided
from ttr.layer.part import Part
from ttr.layer.sizes import Sizes
from ttr.route import file_of, route
from ttr.tasks.registry import TASKS


def coverage() -> str:
    """The matrix catalogue x engines: which engine runs which layer, with each refusal as a footnote."""
    reasons: list[str] = []
    rows = []
    for name, entry in ttr.catalogue.items():
        cells = []
        for engine in ENGINES:
            reason = engine.refuses(entry.problem)  # not what this machine lacks
            if reason is not None and reason not in reasons:
                reasons.append(reason)
            cells.append("runs" if reason is None else f"[{reasons.index(reason) + 1}]")
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    head = f"| entry | {' | '.join(engine.name for engine in ENGINES)} |\n|---|{'---|' * len(ENGINES)}"
    notes = "\n".join(f"{i}. {reason}" for i, reason in enumerate(reasons, 1))
    return (
        f"{_title('Which engine runs which layer')}{head}\n"
        + "\n".join(rows)
        + (f"\n\nWhy an engine refuses:\n\n{notes}\n")
    )


def layers() -> str:
    """The named layers by family: a table of their components, then the formulas, limits and sources of
    each."""
    parts = [
        _title("The named layers"),
        "The notation of formulas is described in `ttr.latex`; `ttr explain NAME` prints all of this and "
        "more.\n",
    ]
    for family, names in ttr.catalogue.FAMILIES.items():
        rows = [
            f"| [`{name}`](#{name}) | {_choices(name)} | {_state(name)} | {_compared(name)} |"
            for name in names
        ]
        head = (
            "| layer | weights | function | solver | state | compared with the original "
            "|\n|---|---|---|---|---|---|"
        )
        parts.append(f"## {family}\n\n{head}\n" + "\n".join(rows))
        parts += [_layer(name) for name in names]
    return "\n".join(parts)


def combined() -> str:
    """Every combination of the components' examples: tables of marks, names, and the reasons of the
    refusals."""
    parts = [_title("Combinations"), f"{combinations.summary()}\n\n{combinations.LEGEND}\n"]
    for table in combinations.tables():
        head = (
            "| | "
            + " | ".join(f"`{brief(solver)}`" for solver in table.solvers)
            + " |\n|---|"
            + "---|" * len(table.solvers)
        )
        rows = [
            f"| `{brief(weights)}` | {' | '.join(marks)} |"
            for weights, marks in zip(table.weights, table.rows)
        ]
        names = [
            f"- {place}: {', '.join(f'[`{name}`](layers.md#{name})' for name in found)}"
            for place, found in table.names
        ]
        functions = ", ".join(f"`{brief(function)}`" for function in table.functions)
        body = (
            f"{head}\n" + "\n".join(rows) + "\n" + "".join(f"\n{name}" for name in names) + "\n" * bool(names)
        )
        parts.append(f"## {functions}\n\n{table.running} run.\n\n{body}")
    parts.append("## Names of combinations of other instances\n")
    parts += [
        f"- {combinations.composition(ttr.catalogue[name].problem)}: [`{name}`](layers.md#{name})"
        for name in combinations.other_names()
    ]
    parts.append("\n## Why the others are refused\n\n| times | reason |\n|---|---|")
    parts += [f"| {count} | {reason} |" for reason, count in combinations.refusals()]
    return "\n".join(parts) + "\n"


WALKED = ("gated-deltanet", "forgetting-attention", "titans")
"""Layers of three kinds: a linear recurrence, weighted pairs, a network."""

RULES = """
1. A module imports only itself and modules of lower storeys; no two files import each other, not even
   within functions. `tests/test_architecture.py` lists what each storey may contain.
2. Engines and forms import neither `oracle` nor `memorize` nor `retrieve`: they share no update
   code with the definition, so a fault in one shows in the comparison with the other.
3. `import ttr` needs only torch and jaxtyping; `ttr.catalogue` and `ttr.verify` load on first
   access; `models`, `experiments`, `doctor` and `cli` may import the optional packages.
4. A file of an axis holds one public class and bears its name; parts of a layer are grouped by family.
5. No code depends on the name of a layer or of a class: components act through their methods, and
   engines look at the form.
6. Only `torch_internals` uses private symbols of torch, and only `laws/tolerances.py` defines tolerances.
"""

HOUSE = """What a memory *is* (`weights`, `functions`, `solvers`) becomes a *form* (`forms`), and an
*engine* (`engines`) computes it; `dispatch` connects the three. The definition (`oracle`, `memorize`,
`retrieve`) is independent of them, and the laws (`laws`) compare the two. The [glossary](glossary.md)
explains the terms.

## Imports

A rectangle is a folder of `src/ttr`, a rounded box a file; `layer.parts` are the files of `layer` that do
not import the memory. Every module is one storey above the highest that it imports; arrows that follow
from others are left out.
"""


def architecture() -> str:
    """The modules and their imports as a graph, the purpose of each, and the path of a query and of a
    gate."""
    table = [
        f"| {number} | `{room}` | {rooms.meaning(room)} |"
        for number, floor in reversed(list(enumerate(rooms.storeys())))
        for room in floor
    ]
    walks = [_walks(name) for name in WALKED]
    head = "| storey | module | purpose |\n|---|---|---|\n"
    return (
        f"{_title('Architecture')}{HOUSE}\n```mermaid\n{rooms.picture()}\n```\n\n"
        f"{head}" + "\n".join(table) + f"\n\n## The rules of import\n{RULES}\n"
        "## The path of a query and of a gate\n\nThree layers of different kinds, with compiled "
        "kernels. `ttr explain NAME --route` lists the files that a call passes through on this machine, and "
        "all files of its engine.\n" + "\n".join(walks) + "\n"
    )


def tasks() -> str:
    """The synthetic tasks: what they ask, their settings, and what an exact memory reaches on them."""
    parts = [
        _title("Synthetic tasks"),
        "A task is its settings: `task.draw(count, seed)` gives sequences that follow from them and the "
        "seed, with a hash of their content (`.sha256`), and `task.ceiling(count, seed)` is the score of an "
        "exact memory on them. `ttr.tasks.registry.TASKS` has all by name; `ttr.tasks.regression` has "
        "streams for regression without training, `ttr.tasks.records` and `ttr.tasks.text` the planted "
        "records and the recall slice of `ttr compare`.\n",
    ]
    module = None
    for name, task in TASKS.items():
        if module != (module := inspect.getmodule(task)):
            meant = _flowing(inspect.getdoc(module))
            parts.append(f"## {re.split('[(:.]', meant)[0].strip()}\n\n{meant}\n")
        what, _, settings = (inspect.getdoc(task) or "").partition("Attributes:")
        rows = [
            f"| `{field.name}` | {field.default!r} | {_attribute(settings, field.name)} |"
            for field in dataclasses.fields(task)
        ]
        reaches = f"An exact memory: {task().ceiling(64, 0):.3g} ({task.says}, 64 sequences of seed 0)."
        head = "| setting | default | meaning |\n|---|---|---|"
        parts.append("\n\n".join([f"### {name}", *[_flowing(what)] * bool(what.strip()), reaches, head]))
        parts += [*rows, ""]
    return "\n".join(parts)


SHARED = """`ttr.distributed` cuts sequences into shards, one for every process of a mesh's dimension.
Outputs, states and gradients are those of one process, also for packed documents that reach over a cut; its
docstring shows how it is called. What a layer communicates, forward, for every sequence that reaches over a
cut:

- a memory that **combines** sums up its shard, and every process gathers the sums of all, with their
  decays;
- one that **gathers** does so with its stored pairs, of a window with the last ones alone. Later processes
  read more pairs than earlier ones;
- one that **passes** its state on waits for that of the process before it, which meanwhile goes on with the
  next layer: L layers of this kind on P processes take L + P - 1 times one layer of one shard;
- short convolutions and token shifts send their last inputs to the next process, width - 1 for each channel,
  before the memory, so that a memory that combines waits for no other process to finish.

Backward, a gradient of the same size returns for what was passed; what was gathered is summed over all
processes, which costs as many such messages as there are processes. The gradients of weights are summed as
in data parallelism. Sizes are those of float32 at batch 1, 4 heads of 64 channels, and 4,096 tokens per
process; [layers.md](layers.md) has the tensors of every state.
"""


HEADS = """## Heads

`from_pretrained(folder, tp_plan="auto")`, or `ttr.layer.heads.divide_heads(mixer, mesh)`, leaves every
process a share of the heads of each layer: of projections, gates, convolutions, memory and state. What the
heads share is whole in every process, and its gradient summed. For every token a layer sums d_model numbers
over the processes forward, and as many backward. A layer stays whole in every process if the number of these
does not divide its heads of queries, keys and values, where a single one is shared by all, or if a part reads
all heads together:
"""


def parallel() -> str:
    """How processes share the sequences of every layer, how much they exchange, and which share its heads."""
    head = "| layer | strategy | kB sent per process and layer |\n|---|---|---|"
    rows = [f"| `{name}` | {' | '.join(_shared(entry.problem))} |" for name, entry in ttr.catalogue.items()]
    sizes = Sizes(256, 4, 4, 4, 64, 64, 64, layers=2)
    reasons = {name: undivided(entry, sizes, 2) for name, entry in ttr.catalogue.items()}
    whole = [f"| `{name}` | {reason} |" for name, reason in reasons.items() if reason]
    sequences = "\n".join([_title("Sequence parallelism") + SHARED, head, *rows])
    return "\n".join([sequences, "", HEADS, "| layer | why |\n|---|---|", *whole, ""])


def _shared(problem: ttr.Problem, heads: int = 4, size: int = 64, tokens: int = 4096) -> tuple[str, str]:
    """How its sequences are shared, and the size of the message."""
    try:
        strategy = distributed.strategy(problem)
    except ValueError as refusal:
        return f"refused: {refusal}", ""
    params = ttr.init_params(problem, heads=heads, key_size=size, value_size=size)
    state = ttr.initial_state(problem, 1, heads, size, size, params=params, capacity=tokens)
    decay = {None: 0, "head": heads, "channel": heads * size}[problem.weights.retention]
    sent = state.nbytes + (0 if strategy == "passes" else 4 * decay)
    grows = strategy == "passes" and "keys" in state and problem.weights.window is None
    return strategy, f"{sent / 1000:,.1f}{' times the processes before' if grows else ''}"


def _flowing(docstring: str | None) -> str:
    """Its paragraphs, a line each."""
    return "\n\n".join(" ".join(each.split()) for each in (docstring or "").strip().split("\n\n"))


def _attribute(docstring: str, name: str) -> str:
    """What the "Attributes" of a docstring say of one."""
    found = re.search(rf"^ *{name}: (.*?)(?=^ *\w+: |^ *$|\Z)", docstring, re.MULTILINE | re.DOTALL)
    return _flowing(found[1]) if found else ""


def _walks(name: str) -> str:
    entry = ttr.catalogue[name]
    engine = next(engine for engine in ENGINES if engine.refuses(entry.problem) is None)
    passed = [step for step in route(entry.problem, engine) if "single token" not in step[0]]
    into = ("mixer: calls `regress`", file_of(ttr.nn.Mixer))
    projected = ("project: q = W x, heads apart", file_of(ttr.nn.Mixer.__mro__[1]))
    outputs = [(f"output: {type(part).__name__}", file_of(type(part))) for part in entry.output]
    query = [
        projected,
        *_transforms(entry),
        into,
        *passed,
        *outputs,
        ("mixer: the output projection", file_of(ttr.nn.Mixer)),
    ]
    gate = entry.gates[0]
    return (
        f"\n### {name}\n\n`q`:\n\n{_steps(query)}\n\n"
        f"`{gate.makes[0]}`:\n\n{_steps(_gate_walk(entry, gate, passed, into))}"
    )


def _transforms(entry: Architecture) -> list[tuple[str, str]]:
    return [(f"qkv: {type(part).__name__}", file_of(type(part))) for part in entry.qkv]


def _gate_walk(
    entry: Architecture, gate: Part, passed: list[tuple[str, str]], into: tuple[str, str]
) -> list[tuple[str, str]]:
    """The path of a gate: the gate itself, then the steps of the call without the components that do not take
    its control."""
    problem = entry.problem
    takers = {
        file_of(type(part))
        for part in (problem.weights, problem.function, problem.solver)
        if gate.makes[0] in part.controls()
    }
    axes = ("weights:", "function:", "solver:")
    rest = [step for step in passed if not step[0].startswith(axes) or step[1] in takers]
    return [(f"gate: {type(gate).__name__}", file_of(type(gate))), into, *rest]


def _steps(steps: list[tuple[str, str]]) -> str:
    shown = [step for step in steps if step[0] != "engine: what it is made of"]
    return "\n".join(f"{number}. `{file}`: {what}" for number, (what, file) in enumerate(shown, 1))


def _layer(name: str) -> str:
    """One layer: its source, its formulas, and in what sense it is a regression."""
    explanation = explain(ttr.catalogue[name])
    facts = [(section.title, fact) for section in explanation.sections for fact in section.facts]
    lines = [f"- {fact.title}: {fact.text}" for title, fact in facts if title == SOURCE]
    lines += [f"- {title}: `{formula}`" for title, formula in explanation.formulas().items()]
    lines += [
        f"- {title}: {text}" for title in ("order", "parallel form") for text in explanation.facts(title)
    ]
    limits = [f"- {fact.text}" for title, fact in facts if title == APPROXIMATE]
    return "\n".join((f"\n### {name}\n", *lines, f"\n{APPROXIMATE}:\n", *limits, ""))


def _choices(name: str) -> str:
    problem = ttr.catalogue[name].problem
    return " | ".join(f"`{brief(part)}`" for part in (problem.weights, problem.function, problem.solver))


def _state(name: str) -> str:
    return state_words(ttr.catalogue[name].problem).partition(";")[0]


def _compared(name: str) -> str:
    """What has been compared with the original, and whether a published module exists."""
    entry = ttr.catalogue[name]
    kinds = " and ".join(dict.fromkeys(re.findall(r"\b(layer|memory)\b(?=[^;]*:)", entry.verified)))
    return f"{kinds or entry.verified}{'' if entry.original else ', by another derivation'}"


def _title(title: str) -> str:
    return f"# {title}\n\nGenerated from the code by `make docs`; a test checks that it is current.\n\n"


PAGES = {
    "architecture.md": architecture,
    "coverage.md": coverage,
    "layers.md": layers,
    "combinations.md": combined,
    "tasks.md": tasks,
    "sequence-parallelism.md": parallel,
}

if __name__ == "__main__":
    for page, text in PAGES.items():
        path = Path(sys.argv[1]) / page
        path.write_text(text())
        print(f"wrote {path}")
