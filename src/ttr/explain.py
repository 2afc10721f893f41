"""Descriptions of problems for people: formulas, state and cost, and the engine that runs them."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ttr.component import Component
from ttr.controls import CONTROLS
from ttr.dispatch import check_engine, choose, refusal
from ttr.engines import ENGINES
from ttr.engines.engine import Engine
from ttr.explanation import APPROXIMATE, Explanation, Fact, Section
from ttr.forms import KernelPairs, Pairs, SecondMoments
from ttr.inputs import Inputs
from ttr.prepare import check_problem, check_sizes, prepare
from ttr.problem import Problem
from ttr.route import route
from ttr.state import empty_state

FORMULAS = (
    "weight",
    "decay",
    "objective",
    "prediction",
    "features",
    "kernel",
    "update",
    "read-out",
    "scale",
    "normalisation",
)
"""Titles of formulas, in reading order; "order", "parallel form" and "approximation" are titles of text."""

LETTERS = {"K": 116, "V": 148, "H": 22, "N": 1042}
"""Sentinel sizes from which the symbolic dimension of a shape entry is recovered: key size, value size,
heads, stored pairs."""

OWNERS = {
    "weights": ("weight", "decay"),
    "solver": ("objective", "update", "order", "parallel form"),
    "function": ("prediction", "features", "kernel", "read-out", "scale", "normalisation"),
}
"""The axis that each title belongs to. A formula of another axis under the same title takes precedence:
weights may change the update."""

FOLDED = (
    "The pairs are learned one after the other, or a few together, by one step each on its own objective, "
    "so the memory is not the minimiser over all pairs."
)
SHRUNK = (
    "The decay shrinks the memory towards 0 before every update instead of weighting the pairs of a "
    "squared error. With orthonormal keys the weights would not change a weighted fit, but they change "
    "this memory."
)
PLAIN = "phi(x) = x"

AROUND = "Convolutions, norms and gates around the memory are not part of the regression."
SOURCE = "Source"

EXACT = "The memory is exactly the solution of its weighted regression."


def explain(
    problem: object,
    q: Tensor | None = None,
    k: Tensor | None = None,
    v: Tensor | None = None,
    *,
    heads: int | None = None,
    key_size: int | None = None,
    value_size: int | None = None,
    tokens: int = 1024,
    name: str = "",
    **call: object,
) -> Explanation:
    """A memory in formulas and words: its objective, update and read-out, its state, inputs and cost, in what
    sense it is a regression, the engine that runs it, and why the others do not.

    Args:
        problem: a Problem, or an Architecture (anything with a ``problem``), whose source and parts are
            described too.
        q, k, v: with the other arguments of a call to ``regress``, the engine of that call; without them, the
            engine of calls in general.
        heads, key_size, value_size: sizes for which state and cost are given in numbers; taken from the call
            if there is one.
        tokens: number of pairs, in those numbers, of a memory that stores all of them.
        name: the title.
    """
    entry, problem = problem, getattr(problem, "problem", problem)
    check_problem(problem)
    x, engine = None, "auto"
    if q is not None:
        engine = call.pop("engine", engine)
        known = {name: call.pop(name, None) for name in ("params", "state", "cu_seqlens", "return_state")}
        x = prepare(problem, q, k, v, known["params"], known["state"], known["cu_seqlens"], call)
        heads, key_size, value_size, tokens = x.heads, q.shape[-1], v.shape[-1], q.shape[1]
    elif call:
        raise ValueError(
            f"explain() got {', '.join(call)} but no q, k, v. Give the whole call, or only sizes."
        )
    chosen, others = _engines(problem, x, engine)
    sizes = _in_numbers(problem, heads, key_size, value_size, tokens)
    how = [("parallel form", _written_out(problem, text)) for text in _texts(problem, "parallel form")]
    how += [("engine", chosen), *((f"not {name}", reason) for name, reason in others)]
    sections = (
        _section(SOURCE, _source(entry)),
        _section("The three choices", _choices(problem)),
        Section("In formulas", tuple(_formulas(problem))),
        _section("State and cost", _costs(problem, sizes)),
        _section("Inputs of a call", _inputs(problem)),
        _section(APPROXIMATE, _approximations(entry, problem)),
        _section("Parts around the memory, in order", _parts(entry)),
        _section("How it runs", how),
    )
    return Explanation(
        name,
        tuple(section for section in sections if section.facts),
        chosen,
        others,
        route(problem, check_engine(chosen)),
    )


def _engines(
    problem: Problem, x: Inputs | None, asked: Engine | str
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The engine that runs a call, or calls in general, and why each of the others does not."""
    reasons = {engine.name: refusal(engine, problem, x) for engine in ENGINES}
    chosen = (
        choose(problem, x, asked).name
        if x is not None
        else next(name for name, reason in reasons.items() if reason is None)
    )
    others = tuple(
        (name, reason or f"Slower than {chosen}; runs it on request.")
        for name, reason in reasons.items()
        if name != chosen
    )
    return chosen, others


def _in_numbers(
    problem: Problem, heads: int | None, key_size: int | None, value_size: int | None, tokens: int
) -> dict[str, int] | None:
    """The sizes by their letters; None if none are given."""
    sizes = {"H": heads, "K": key_size, "V": value_size, "N": problem.weights.window or tokens}
    missing = [letter for letter in "HKV" if sizes[letter] is None]
    if 0 < len(missing) < 3:
        raise ValueError(
            "State and cost in numbers need all of heads, key_size and value_size. Give all three, or none."
        )
    if not missing:
        check_sizes(1, heads=heads)
        check_sizes(key_size=key_size, value_size=value_size, tokens=tokens)
    return None if missing else sizes


def summary(component: Component) -> str:
    """The first paragraph of a component's docstring, on one line."""
    return " ".join(inspect.getdoc(type(component)).split("\n\n")[0].replace("``", "").split())


def state_words(problem: Problem) -> str:
    """The tensors of a memory's state per head, with letters for their sizes."""
    if not problem.function.causal:
        return "nothing: every token reads the whole sequence"
    words = ", ".join(
        f"{name} [{','.join(_letter(problem, size) for size in shape)}]"
        for name, shape in _state_shapes(problem, LETTERS).items()
    )
    if not issubclass(problem.form, Pairs):
        return f"{words} per head"
    window = problem.weights.window
    return f"{words}; N is {f'the {window} newest tokens' if window else 'the number of tokens so far'}"


def _section(title: str, facts: object) -> Section:
    return Section(title, tuple(Fact(*fact) for fact in facts))


def _texts(problem: Problem, title: str) -> list[str]:
    """The text under a title, at most one: that of another axis than the title's own if there is one, else
    its own."""
    parts = sorted(
        (problem.solver, problem.function, problem.weights), key=lambda part: title not in OWNERS[part.kind]
    )
    return [text for part in parts if (text := part.formulas().get(title))][-1:]


def _source(entry: object) -> Iterator[tuple[str, str]]:
    if getattr(entry, "source", ""):
        yield "source", f"{entry.source} ({entry.year})" + (f", arXiv {entry.arxiv}" if entry.arxiv else "")
        yield "original", entry.original or "no public implementation to follow"
        yield "checked", entry.verified
        if entry.note:
            yield "note", entry.note


def _choices(problem: Problem) -> Iterator[tuple[str, str]]:
    for axis in ("weights", "function", "solver"):
        component = getattr(problem, axis)
        yield axis, f"{component!r}: {summary(component)}"
    yield (
        "weights act on",
        {
            "samples": "the samples: every token solves the weighted problem of all pairs",
            "memory": "the memory: it decays, then the token's pairs are learned",
        }[problem.solver.weights_act_on],
    )


def _formulas(problem: Problem) -> Iterator[Fact]:
    """The formulas of the three choices combined; a formula that is substituted into the others has no line
    of its own."""
    texts = {title: text for title in FORMULAS for text in _texts(problem, title)}
    for title in FORMULAS:
        if title in texts and (title, texts[title]) not in (
            ("features", PLAIN),
            ("decay", texts.get("decay")),
        ):
            yield Fact(title, _written_out(problem, texts[title]), formula=True)
    if problem.weights.window is not None:
        yield Fact("window", f"the sums run over the {problem.weights.window} newest pairs")
    yield from (Fact("order", text) for text in _texts(problem, "order"))


def _written_out(problem: Problem, formula: str) -> str:
    """The formula of a component in this problem: D_t, w_t and phi are replaced by their values here."""
    default = {
        None: "1",
        "head": "(gamma_i^(t) / gamma_i^(t-1))",
        "channel": "diag(gamma_i^(t) / gamma_i^(t-1))",
    }[problem.weights.retention]
    decay = next(iter(_texts(problem, "decay")), default).removeprefix("D_t = ")
    formula = formula.replace("D_t = 1 after", "with decay 1 after")
    formula = re.sub(r"\bD_t (?=[A-Za-z(])", "" if decay == "1" else f"{decay} ", formula)
    if not problem.weights.importance:
        formula = re.sub(r"\bw_[tij] (?=[A-Za-z(])", "", formula)
    if PLAIN in _texts(problem, "features"):
        formula = re.sub(r"phi\(([^()]*)\)", r"\1", formula)
    return formula.replace("(S_{t-1})^T", "S_{t-1}^T")


def _state_shapes(problem: Problem, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    if issubclass(problem.form, Pairs):
        return {
            "keys": (sizes["N"], sizes["K"]),
            "values": (sizes["N"], sizes["V"]),
            "log_weight": (sizes["N"],),
        }
    return problem.state_shapes(sizes["K"], sizes["V"])


def _work(problem: Problem, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
    """The terms of the work per token and head: every number of the state once, and the solves."""
    held = list(_state_shapes(problem, sizes).values())
    work = [shape for shape in held if len(shape) == max(map(len, held))]
    if problem.form is KernelPairs:
        return [*work, (sizes["N"],) * 3]
    pairs, unknowns = (
        sizes["N"] if issubclass(problem.form, Pairs) else 1,
        problem.function.feature_size(sizes["K"]),
    )
    if problem.solver.exact and unknowns and "slope" not in problem.controls():
        work += [(pairs, unknowns, unknowns)] if pairs > 1 else []
        work += [(unknowns, unknowns, unknowns)]
    if problem.form is SecondMoments and not problem.solver.exact:
        work += [(problem.solver.iterations, unknowns, unknowns)]
    return list(dict.fromkeys(work))


def _letter(problem: Problem, size: int) -> str:
    """The letter of a size computed with ``LETTERS``, a multiple of a letter, or the number itself."""
    letters = {LETTERS[letter]: letter for letter in ("N", "H", "V", "K")}
    letters.setdefault(problem.function.feature_size(LETTERS["K"]), "F")
    degree = problem.function.local_degree or 0
    letters.setdefault(math.comb(LETTERS["K"] + degree, degree) - 1, "D")
    multiples = (f"{size // LETTERS[letter]} {letter}" for letter in "KV" if size % LETTERS[letter] == 0)
    return letters.get(size) or next(multiples, str(size))


def _power(problem: Problem, shape: tuple[int, ...]) -> str:
    factors = [name for size in shape for name in _letter(problem, size).split()]
    number = math.prod(int(factor) for factor in factors if factor.isdecimal())
    names = [factor for factor in factors if not factor.isdecimal()]
    powers = [
        f"{name}^{names.count(name)}" if names.count(name) > 1 else name for name in dict.fromkeys(names)
    ]
    return " ".join([str(number)] * (number > 1) + powers)


def _costs(problem: Problem, sizes: Mapping[str, int] | None) -> Iterator[tuple[str, str]]:
    yield "state", state_words(problem)
    if not problem.function.causal:
        return
    features = problem.function.feature_size(LETTERS["K"])
    if features not in (0, LETTERS["K"]) and problem.form is not KernelPairs:
        yield "F", f"features of a key, {_feature_words(problem)}"
    pairs = problem.solver.pairs_per_token
    terms = [_power(problem, shape) for shape in _work(problem, LETTERS)]
    yield (
        "work per token",
        f"O({' + '.join(terms)}) per head" + (f", for each of {pairs} pairs" if pairs > 1 else ""),
    )
    if sizes is not None:
        slots = sizes["N"] if issubclass(problem.form, Pairs) else None
        state = empty_state(
            problem, 1, (sizes["H"],) * 3, sizes["K"], sizes["V"], slots, torch.device("meta")
        )
        work = pairs * sizes["H"] * sum(math.prod(shape) for shape in _work(problem, sizes))
        given = ", ".join(f"{letter} = {sizes[letter]}" for letter in ("HKVN" if slots else "HKV"))
        yield (
            "in numbers",
            (
                f"{state.nbytes:,} bytes of state in float32, of the order of {work:,} products "
                f"per token, with {given}"
            ),
        )


def _feature_words(problem: Problem) -> str:
    sizes = [(key_size, problem.function.feature_size(key_size)) for key_size in (16, 64)]
    return "; ".join(f"{features} for K = {key_size}" for key_size, features in sizes)


def _inputs(problem: Problem) -> Iterator[tuple[str, str]]:
    plain = problem.function.feature_size(LETTERS["K"]) == LETTERS["K"]
    for name, axes in problem.controls().items():
        letters = axes.replace("F", "" if problem.form is KernelPairs else "K" if plain else "F")
        yield name, f"[{','.join(letters)}] {CONTROLS[name].meaning}"
    for name, parameter in problem.parameters(LETTERS["H"], LETTERS["K"], LETTERS["V"]).items():
        shape = ",".join(_letter(problem, size) for size in parameter.shape)
        yield name, f"[{shape}] parameter, {'learned' if parameter.trainable else 'fixed'}"


def _approximations(entry: object, problem: Problem) -> Iterator[tuple[str, str]]:
    parts = (problem.solver, problem.function, problem.weights)
    texts = list(
        dict.fromkeys(
            _written_out(problem, text) for part in parts if (text := part.formulas().get("approximation"))
        )
    )
    if problem.solver.weights_act_on == "memory":
        texts += [FOLDED] + ([SHRUNK] if problem.weights.retention else [])
    texts = texts or [EXACT]
    if next(_parts(entry), None):
        texts.append(AROUND)
    yield from ((f"{number}.", text) for number, text in enumerate(texts, 1))


def _parts(entry: object) -> Iterator[tuple[str, str]]:
    if not hasattr(entry, "before_memory"):
        return
    steps = [*entry.before_memory(), None, *entry.output]
    for number, step in enumerate(steps if len(steps) > 1 else (), 1):
        yield f"{number}.", "the memory" if step is None else f"{step!r}: {summary(step)}"
