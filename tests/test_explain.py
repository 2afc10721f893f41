"""``explain``: formulas of every component and entry, their LaTeX and layout, and whether they are true where
that can be measured."""

import dataclasses
import re
import typing
from pathlib import Path

import pytest
import torch
from matplotlib.mathtext import MathTextParser

import ttr
from ttr import registry
from ttr.component import Component
from ttr.explain import APPROXIMATE, EXACT, FORMULAS, SHRUNK
from ttr.forms import Pairs
from ttr.functions.features.taylor import Taylor
from ttr.functions.linear import Linear
from ttr.functions.local_constant import LocalConstant
from ttr.functions.local_linear import LocalLinear
from ttr.latex import latex
from ttr.laws.rows import covering
from ttr.problem import Problem, Weights
from ttr.solvers.delta_rule import DeltaRule
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.solvers.learned_slope import LearnedSlope
from ttr.solvers.momentum_delta_rule import MomentumDeltaRule
from ttr.solvers.one_step import OneStep
from ttr.weights.bonus import Bonus
from ttr.weights.complex_geometric import ComplexGeometric
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.product import Product
from ttr.weights.trapezoid import Trapezoid
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window

KINDS = ("weights", "function", "feature", "solver")
EXAMPLES = [example for kind in KINDS for cls in registry.members(kind) for example in cls.examples()]
WORDS = ("order", "parallel form", "approximation")


def silent(component, field):
    """Whether a field need not appear in a formula: it only guards a division, or changes nothing."""
    unused = {
        "hidden": getattr(component, "depth", None) == 1,
        "tied": isinstance(component, Linear) and not component.parameters(1, 4, 3),
    }
    return field == "eps" or unused.get(field, False)


PARSER = MathTextParser("path")


def needed(component):
    """The titles of formulas that a component of that kind must have."""
    if component.kind == "solver":
        return {"update", "order", "parallel form"} | (set() if component.folds else {"objective"})
    return {"weights": {"weight"}, "function": {"prediction", "read-out", "scale"}, "feature": {"features"}}[
        component.kind
    ]


@pytest.mark.parametrize("component", EXAMPLES, ids=repr)
def test_every_component_states_its_formulas(component):
    formulas = component.formulas()
    assert needed(component) <= set(formulas) <= {*FORMULAS, *WORDS}
    for title, text in formulas.items():
        assert text.isascii() and text == text.strip() and "\n" not in text and len(text) > 4, title


def others(component, field):
    """The component with another value of a field, if there is a valid one."""
    value, hint = getattr(component, field.name), typing.get_type_hints(type(component))[field.name]
    if isinstance(value, bool):
        new = [not value]
    elif isinstance(value, Component):
        new = [
            example for cls in registry.members(value.kind) for example in cls.examples() if example != value
        ][:1]
    elif value is None and Component in typing.get_args(hint):
        new = [example for cls in registry.members("map") for example in cls.examples()]
    elif isinstance(value, str):
        new = [other for other in typing.get_args(hint) if other != value]
    else:
        new = (
            [value + 1]
            if isinstance(value, int)
            else [0.625, 0.875]
            if value is None or isinstance(value, float)
            else []
        )
    for other in new:
        try:
            yield dataclasses.replace(component, **{field.name: other})
        except (ValueError, TypeError):
            continue


@pytest.mark.parametrize("component", EXAMPLES, ids=repr)
def test_formulas_say_what_every_field_changes(component):
    for field in dataclasses.fields(component):
        for other in others(component, field) if not silent(component, field.name) else ():
            assert other == component or other.formulas() != component.formulas(), (
                f"{field.name} changes nothing in the formulas"
            )


def rendered(formula):
    """Whether mathtext, an independent parser of LaTeX mathematics, can render it."""
    PARSER.parse(f"${latex(formula)}$")
    return True


@pytest.mark.parametrize("component", EXAMPLES, ids=repr)
def test_formulas_of_components_are_latex(component):
    for title, text in component.formulas().items():
        assert title in WORDS or rendered(text)


@pytest.mark.parametrize("name", ttr.catalogue)
def test_formulas_of_layers_are_latex(name):
    explanation = ttr.explain(ttr.catalogue[name], name=name)
    assert all(map(rendered, explanation.formulas().values()))
    check_document(explanation.latex())


def check_document(text):
    """Check that braces and environments are balanced, scripts have braces, rows have their columns, and text
    contains no unescaped special character."""
    plain = re.sub(r"\\[{}_&%#$]", "", text)
    depth = 0
    for character in plain:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0 and re.findall(r"\\begin\{(.*?)\}", text) == re.findall(r"\\end\{(.*?)\}", text) == [
        "align*",
        "description",
    ]
    rows = plain.split(r"\begin{align*}")[1].split(r"\end{align*}")[0].split(r"\\")
    assert rows and all(row.count("&") == 3 for row in rows)
    assert not re.search(r"[_^](?!\{)", "".join(rows))
    words = plain.replace(r"\^{}", "").replace(r"\~{}", "").split(r"\begin{description}")[1]
    assert not re.search(r"[_^&#$%~|<>]", words) and words.count(r"\item[") >= 2


@pytest.mark.parametrize(
    "formula, expected",
    [
        ("S_t = a_t S_{t-1} + k_t v_t^T", r"S_{t} = a_{t} S_{t-1} + k_{t} v_{t}^{\top}"),
        (
            "sum_{i<=t} gamma_i^(t) ||v_i - S^T k_i||^2 / 2",
            r"\sum _{i\leq t} \gamma _{i}^{(t)} \Vert v_{i} - S^{\top} k_{i}\Vert ^{2} / 2",
        ),
        ("exp(log_decay_t) K^(-1/2) 1e-10", r"\exp (\mathrm{log\_decay}_{t}) K^{-1/2} 10^{-10}"),
        (
            "(H + diag(ridge))^-1 q.k, kbar, S~",
            r"(H + \operatorname{diag}(\mathrm{ridge}))^{-1} q\cdot k, "
            r"\bar{k}, \tilde{S}",
        ),
        ("gamma_i^(t-1) a^(t-1)", r"\gamma _{i}^{(t-1)} a^{t-1}"),
        (
            "silu(W x) * y, 2 pairs of a token",
            r"\operatorname{silu}(W x) \odot y, 2 \text{ pairs of a token}",
        ),
        ("2^-(h + 1) K^(-1/2)", r"2^{-(h + 1)} K^{-1/2}"),
        ("sqrt(x + 1) {0, 1} S_old", r"\sqrt{x + 1} \{ 0, 1\} S_{\mathrm{old}}"),
    ],
)
def test_translation(formula, expected):
    assert latex(formula) == expected
    assert rendered(formula)


@pytest.mark.parametrize("formula", ["x^{a b", "x_", "a) b}", "(((", "^", "x__t", "sqrt(", ""])
def test_broken_formulas_give_balanced_braces(formula):
    text = re.sub(r"\\[{}]", "", latex(formula))
    assert text.count("{") == text.count("}")


UPDATES = {
    (Uniform(), OneStep()): "S_t = S_{t-1} + k_t v_t^T = sum_{i<=t} gamma_i^(t) k_i v_i^T",
    (Geometric("channel"), OneStep()): (
        "S_t = diag(a_t) S_{t-1} + k_t v_t^T = sum_{i<=t} gamma_i^(t) k_i v_i^T"
    ),
    (Product((Geometric(), Importance())), OneStep()): (
        "S_t = a_t S_{t-1} + w_t k_t v_t^T = sum_{i<=t} gamma_i^(t) k_i v_i^T"
    ),
    (Geometric(), DeltaRule()): (
        "S_t = a_t S_{t-1} + b_t k_t (v_t - (a_t S_{t-1})^T k_t)^T, b_t = step_size_t"
    ),
    (Uniform(), DeltaRule()): "S_t = S_{t-1} + b_t k_t (v_t - S_{t-1}^T k_t)^T, b_t = step_size_t",
    (
        Geometric(),
        DeltaRule("old", separate_read=True),
    ): "S_t = a_t S_{t-1} + b_t k_t (v_t - S_{t-1}^T p_t)^T, b_t = step_size_t, p = read_key",
    (Product((Geometric(), Importance())), MomentumDeltaRule()): (
        "Z_t = momentum_t Z_{t-1} - b_t k_t (v_t - S_{t-1}^T k_t)^T, S_t = a_t S_{t-1} - momentum_step_t "
        "Z_t, b_t = w_t step_size_t"
    ),
    (
        Geometric("channel"),
        DeltaRule("old", separate_read=True, separate_erase=True, unit_step=True),
    ): "S_t = diag(a_t) S_{t-1} + (k_t v_t^T - e_t (S_{t-1}^T p_t)^T), p = read_key, e = erase_key",
    (Bonus(), OneStep()): "S_t = R_{t-1} + (u * k_t) v_t^T, R_t = diag(a_t) R_{t-1} + k_t v_t^T",
    (Trapezoid(), OneStep()): "S_t = a_t (S_{t-1} + (1 - l_t) d_t k_{t-1} v_{t-1}^T) + l_t d_t k_t v_t^T",
    (
        ComplexGeometric(),
        OneStep(),
    ): "S_t = Re(R_t) = sum_{i<=t} gamma_i^(t) k_i v_i^T, R_t = a_t R_{t-1} + k_t v_t^T in complex numbers",
}


@pytest.mark.parametrize("parts", UPDATES, ids=repr)
def test_updates_are_written_out(parts):
    assert ttr.explain(Problem(parts[0], Linear(), parts[1])).formulas()["update"] == UPDATES[parts]


@dataclasses.dataclass(frozen=True)
class _Decaying(Weights):
    """Weights without formulas."""

    retention = "head"


def test_components_without_formulas_are_explained_by_their_structure():
    explanation = ttr.explain(Problem(_Decaying(), Linear(), OneStep()))
    assert explanation.formulas()["update"].startswith(
        "S_t = (gamma_i^(t) / gamma_i^(t-1)) S_{t-1} + k_t v_t^T"
    )
    assert "weight" not in explanation.formulas() and all(map(rendered, explanation.formulas().values()))


def test_another_axis_has_the_last_word_on_a_title():
    parallax, intention, nystrom = (
        ttr.explain(ttr.catalogue[name]).formulas() for name in ("parallax", "kernel-intention", "skyformer")
    )
    assert "slope_t" in parallax["read-out"] and "rho" not in parallax["read-out"]
    assert intention["update"].startswith("C = (kappa(K, K) + ridge Gamma^-1)^-1 V")
    assert "S_t" not in nystrom["update"] and ttr.explain(ttr.catalogue["skyformer"]).facts("state")[
        0
    ].startswith("nothing")


def test_features_that_change_the_key_stay_in_the_formulas():
    explanation = ttr.explain(Problem(Uniform(), Linear(Taylor()), OneStep()))
    assert "phi(k_t)" in explanation.formulas()["update"] and "u^2 / 2" in explanation.formulas()["features"]
    assert "memory [F,V]" in explanation.facts("state")[0] and "153 for K = 16" in explanation.facts("F")[0]


def limits(problem):
    return [
        fact.text
        for section in ttr.explain(problem).sections
        if section.title == APPROXIMATE
        for fact in section.facts
    ]


def test_limits_of_the_regression():
    assert (
        limits(Problem(Uniform(), LocalConstant(), ExactLocalFit()))
        == limits(ttr.catalogue["mesanet"].problem)
        == [EXACT]
    )
    assert EXACT not in limits(Problem(Uniform(), LocalLinear(), LearnedSlope()))
    assert SHRUNK in limits(Problem(Geometric(), Linear(), DeltaRule())) and SHRUNK not in limits(
        Problem(Uniform(), Linear(), DeltaRule())
    )
    assert any(
        "per key channel" in text
        for text in limits(Problem(Product((Geometric("channel"), Importance())), Linear(), OneStep()))
    )
    assert any("ratio" in text for text in limits(ttr.catalogue["based"].problem))
    assert EXACT not in limits(Problem(Uniform(), Linear(), OneStep()))


@pytest.mark.parametrize("name", ttr.catalogue)
def test_a_layer_is_explained_in_full_on_80_columns(name):
    entry = ttr.catalogue[name]
    text = str(ttr.explain(entry, name=name))
    flat = " ".join(text.split())
    assert text.splitlines()[0] == name and "\x1b" not in text and flat.replace(entry.source, "").isascii()
    for line in text.splitlines():
        assert len(line) <= 80 or len(line.split()[-1]) > 50, line
        assert line == line.rstrip() and "\t" not in line
    steps = [repr(step) for step in (*entry.before_memory(), *entry.output)]
    places = [flat.index(f"{step}:", flat.index("Parts around the memory")) for step in steps]
    assert places == sorted(places) and len(set(places)) == len(steps)
    for words in (
        entry.source,
        entry.arxiv,
        entry.verified,
        entry.note,
        entry.original or ("no public implementation"),
        *entry.problem.controls(),
    ):
        assert words in flat


@pytest.mark.parametrize("problem", [problem for problem in covering() if problem.function.causal], ids=repr)
def test_state_in_numbers_is_the_state(problem):
    value_size = 2
    explanation = ttr.explain(problem, heads=2, key_size=4, value_size=value_size, tokens=7)
    params = ttr.init_params(problem, heads=2, key_size=4, value_size=value_size)
    state = ttr.initial_state(
        problem, 1, 2, 4, value_size, params=params, capacity=7 if issubclass(problem.form, Pairs) else None
    )
    assert explanation.facts("in numbers")[0].startswith(f"{state.nbytes:,} bytes of state in float32")
    assert all(name in explanation.facts("state")[0] for name in state)


def test_window_and_pairs_and_costs_are_explained():
    explanation = ttr.explain(
        Problem(Window(5), LocalConstant(), ExactLocalFit()), heads=2, key_size=4, value_size=3, tokens=100
    )
    assert (
        "the sums run over the 5 newest pairs" in explanation.facts("window")
        and "N = 5" in explanation.facts("in numbers")[0]
    )
    assert explanation.facts("work per token") == ("O(N K + N V) per head",)
    several = ttr.explain(Problem(Uniform(), Linear(), DeltaRule(pairs_per_token=2)))
    assert several.facts("work per token") == ("O(K V) per head, for each of 2 pairs",)
    assert "K^3" in ttr.explain(ttr.catalogue["mesanet"]).facts("work per token")[0]
    assert "N K^2 + K^3" in ttr.explain(ttr.catalogue["local-linear-attention"]).facts("work per token")[0]
    learned = ttr.explain(ttr.catalogue["softmax-attention-qknorm"])
    assert learned.facts("function.scale") == ("[H] parameter, learned",)


def test_half_a_call_and_half_the_sizes_are_refused():
    problem = Problem(Uniform(), Linear(), OneStep())
    with pytest.raises(ValueError, match="Give all three"):
        ttr.explain(problem, heads=2)
    with pytest.raises(ValueError, match="Give the whole call"):
        ttr.explain(problem, log_decay=torch.zeros(1))
    q = torch.zeros(1, 3, 2, 4)
    assert "H = 2, K = 4, V = 4" in ttr.explain(problem, q, q, q).facts("in numbers")[0]


@pytest.mark.parametrize(
    "name, passed",
    [
        ("gated-deltanet", ["solvers/delta_rule", "forms/linear_recurrence", "engines/native/recurrence"]),
        (
            "softmax-attention",
            ["problem", "functions/local_constant", "forms/weighted_pairs", "engines/torch/attention"],
        ),
        (
            "titans",
            ["functions/mlp", "solvers/gradient_descent", "forms/network", "engines/torch/mini_batch"],
        ),
    ],
)
def test_the_route_names_the_files_of_a_call(name, passed):
    explanation = ttr.explain(ttr.catalogue[name])
    files = [file for _, file in explanation.route]
    assert files[:2] == ["ttr/dispatch.py", "ttr/prepare.py"] and len(set(explanation.route)) == len(
        explanation.route
    )
    assert all((Path(ttr.__file__).parents[1] / file).is_file() for file in files)
    kernels = (
        [] if "native" in (engine for engine, _ in explanation.refusals) else ["engines/native/recurrence"]
    )
    wanted = [file for file in passed if file not in ("engines/native/recurrence",) or file in kernels]
    places = [files.index(f"ttr/{file}.py") for file in wanted]
    assert places == sorted(places)
