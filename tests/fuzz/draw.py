"""Hypothesis strategies for calls. The simplest choice always comes first, so that findings shrink to it."""

from __future__ import annotations

import dataclasses
import functools

from hypothesis import strategies as st

import ttr
from tests.fuzz.call import AXES, Call, combinations, examples
from tests.fuzz.routes import LAYERS, MODES, ROUTES, STEPS
from tests.fuzz.tensors import LAYOUTS, PLAIN, RIDGES, STATES, VALUES, WRONG
from tests.tiers import TIERS
from ttr.engines import ENGINES
from ttr.problem import Problem

DTYPES = ("float64", "float32", "bfloat16", "float16")
CHANNELS = (2, 1, 3, 0, 4, 5, 7, 8, 9, 13, 16, 17, 24, 31, 33)
TIMES = (3, 1, 2, 0, 4, 5, 7, 8, 9, 11, 13, 16, 17, 23, 32, 33)
LONG = (37, 61, 64, 65, 67, 127, 128, 130)
"""Lengths near the sizes of blocks; drawn for one row and head."""
FIELDS = (0, -1, 1, 2.5, "text", None, float("nan"), float("inf"), (), True, 7)
"""Replacements of the fields of components."""
WORK = 40_000
"""The largest B T H F V for which the definition takes at most a second or two."""


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """A call, in five of six cases with valid arguments."""
    name = draw(st.sampled_from(sorted(ttr.catalogue)) | st.sampled_from(combinations()))
    kind = draw(st.sampled_from(["right"] * 9 + ["wrong"] * 2 + ["composed"]))
    changed = None
    if kind == "composed":
        name, changed = draw(_composed())
    try:
        problem = Call(name).memory()
    except ValueError:  # the problem is refused, and so will the call be
        return Call(name, changed=changed)
    entry = draw(st.sampled_from(sorted(ROUTES, key=list(ROUTES).index)) | st.sampled_from([*STEPS, *LAYERS]))
    sizes = draw(_sizes(problem))
    names = [*"qkv", *problem.controls(), *_parameters(problem)]
    return Call(
        name,
        entry,
        changed=changed,
        **sizes,
        engine=draw(st.sampled_from(["auto"] * 4 + [b.name for b in _willing(problem)])),
        tier=draw(st.sampled_from(["widest"] * 4 + list(TIERS))),
        small_blocks=draw(st.booleans()),
        past=draw(st.sampled_from([0, 0, 1, 3, 6])),
        cuts=draw(_cuts(sizes["time"])),
        lengths=draw(_lengths(sizes["time"]))
        if sizes["batch"] == 1 and entry in ("regress", "plan", "oracle", "layer")
        else None,
        dtype=draw(st.sampled_from(DTYPES[:2] * 2 + DTYPES)),
        dtypes=draw(_dtypes(names)),
        layouts=draw(_layouts(names)),
        values=draw(st.sampled_from(["unit"] * 5 + list(VALUES))),
        wrong=draw(_wrong(problem, names, entry)) if kind == "wrong" else None,
        mode=draw(st.sampled_from(["plain", "grad", "grad", *MODES])),
        threads=draw(st.sampled_from([1, 1, 2])),
        checks=draw(st.sampled_from([None] * 6 + [True, False])),
        seed=draw(st.integers(0, 99)),
    )


@functools.cache
def _parameters(problem: Problem) -> tuple[str, ...]:
    return tuple(problem.parameters(2, 2, 2))


@functools.cache
def _willing(problem: Problem) -> tuple:
    """The engines that can run the problem, and one that cannot."""
    run = [engine for engine in ENGINES if engine.refuses(problem) is None]
    return (*run, *[engine for engine in ENGINES if engine not in run][:1])


@st.composite
def _composed(draw: st.DrawFn) -> tuple[str, tuple[str, str, object] | None]:
    """Any triple, or a valid one with a field changed."""
    if draw(st.booleans()):
        return " | ".join(draw(st.sampled_from(list(examples()[axis]))) for axis in AXES), None
    name = draw(st.sampled_from(combinations()))
    problem = Call(name).memory()
    fields = [(axis, field.name) for axis in AXES for field in dataclasses.fields(getattr(problem, axis))]
    return name, (*draw(st.sampled_from(fields)), draw(st.sampled_from(FIELDS))) if fields else None


@st.composite
def _sizes(draw: st.DrawFn, problem: Problem) -> dict[str, object]:
    """Sizes for which the definition is fast."""
    if draw(st.integers(0, 9)) == 9:
        return {
            "batch": 1,
            "time": draw(st.sampled_from(LONG)),
            "key": draw(st.sampled_from([2, 3])),
            "value": 2,
        }
    heads = draw(st.sampled_from([1, 2, 3, 4, 6]))
    divisors = st.sampled_from([d for d in range(1, heads + 1) if heads % d == 0])
    groups = [draw(divisors) for _ in "qkv"]
    groups[draw(st.integers(0, 2))] = 1
    sizes = {
        "batch": draw(st.sampled_from([1, 1, 2, 3, 0])),
        "time": draw(st.sampled_from(TIMES)),
        "heads": heads,
        "key": draw(st.sampled_from(CHANNELS)),
        "value": draw(st.sampled_from(CHANNELS)),
    }

    def work() -> int:
        features = problem.function.feature_size(max(sizes["key"], 1))
        return max(sizes["batch"], 1) * (sizes["time"] + 1) * heads * features * (features + sizes["value"])

    for name in ("batch", "key", "value", "time"):  # halve the most expensive size in turn
        if work() > WORK:
            sizes[name] = min(sizes[name], 2)
    return sizes | {"groups": tuple(groups)}


def _cuts(time: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, time), max_size=2).map(lambda cuts: tuple(sorted(cuts)))


@st.composite
def _lengths(draw: st.DrawFn, time: int) -> tuple[int, ...] | None:
    """None in two of three cases; else the sequences between some cuts, including empty ones."""
    if draw(st.integers(0, 2)) < 2:
        return None
    bounds = (0, *draw(_cuts(time)), time)
    return tuple(b - a for a, b in zip(bounds, bounds[1:]))


def _dtypes(names: list[str]) -> st.SearchStrategy[tuple[tuple[str, str], ...]]:
    few = st.dictionaries(st.sampled_from(names), st.sampled_from(DTYPES), max_size=2)
    return st.one_of(
        st.just(()), st.just(()), st.just(()), few.map(lambda found: tuple(sorted(found.items())))
    )


@st.composite
def _layouts(draw: st.DrawFn, names: list[str]) -> tuple[tuple[str, str], ...]:
    """No special choice, the same for all tensors, or different ones for some."""
    which = draw(st.integers(0, 2))
    if which == 0:
        found = {}
    elif which == 1:
        found = {"all": draw(st.sampled_from(list(LAYOUTS)))}
    else:
        found = draw(
            st.dictionaries(st.sampled_from([*names, "gradient"]), st.sampled_from(list(LAYOUTS)), max_size=4)
        )
    if "ridge" in names and draw(st.booleans()):
        found["ridge"] = draw(st.sampled_from(list(RIDGES)))
    return tuple(sorted(found.items()))


@st.composite
def _wrong(draw: st.DrawFn, problem: Problem, names: list[str], entry: str) -> tuple[str, str]:
    """One invalid argument."""
    if entry in LAYERS:
        other = "cu_seqlens" if entry == "layer" else "state"
        fits = ("no heads", "two batches")  # of time and batch, which may have any size
        allowed = {
            "x": [how for how in WRONG if how not in fits],
            "cu_seqlens": list(PLAIN["cu_seqlens"]),
            "state": list(STATES),
        }
        name = draw(st.sampled_from(["x", other]))
        return name, draw(st.sampled_from(allowed[name]))
    which = draw(st.sampled_from(["tensor", "tensor", "state", "plain"]))
    if which == "state" and problem.function.causal:
        return "state", draw(st.sampled_from(list(STATES)))
    if which == "plain":
        name = draw(st.sampled_from(list(PLAIN)))
        return name, draw(st.sampled_from(list(PLAIN[name])))
    name = draw(st.sampled_from(names))
    others = [] if name in "qkv" else ["missing"]
    return name, draw(st.sampled_from([*WRONG, *others]))
