"""The public functions: the choice of an engine, step, plan, explain, diagnostics, dtypes, and states as
objects."""

import dataclasses
import functools

import jaxtyping
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ttr
from ttr.component import Parameter, constant
from ttr.dispatch import refusal
from ttr.engines import ENGINES
from ttr.forms import Pairs
from ttr.functions.local_constant import LocalConstant
from ttr.laws import Law, Setting
from ttr.laws.rows import Sizes, make_case
from ttr.laws.tolerances import error, tolerance
from ttr.laws.verify import verify
from ttr.problem import Problem, Weights
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.weights.importance import Importance

ATTENTION, GATED, RIDGE = (
    ttr.catalogue[name].problem for name in ("forgetting-attention", "gated-deltanet", "mesanet")
)
FORMS = {
    "gated-deltanet": GATED,
    "mesanet": RIDGE,
    "forgetting-attention": ATTENTION,
    "local-linear-attention": ttr.catalogue["local-linear-attention"].problem,
}


def at(case, t):
    controls = {name: x if name == "ridge" else x[:, t] for name, x in case.controls.items()}
    return {"q": case.q[:, t], "k": case.k[:, t], "v": case.v[:, t], "params": case.params, **controls}


@pytest.mark.parametrize("name", FORMS)
def test_auto_takes_the_first_that_does_not_refuse_and_explain_says_why(name):
    case = make_case(FORMS[name])
    explanation = ttr.explain(case.problem, **case.arguments())
    willing = [b.name for b in ENGINES if refusal(b, case.problem) is None]
    assert explanation.engine == willing[0] and explanation.engine != "recurrent"
    assert {other for other, _ in explanation.refusals} == {b.name for b in ENGINES} - {explanation.engine}
    assert all(
        f"not {other}" in str(explanation) and reason.endswith(".") for other, reason in explanation.refusals
    )
    assert torch.equal(
        ttr.regress(case.problem, **case.arguments()),
        ttr.regress(case.problem, engine=explanation.engine, **case.arguments()),
    )


def test_a_named_engine_that_cannot_run_says_why():
    case = make_case(GATED)
    with pytest.raises(ValueError, match="'attention' cannot run this: .* Use engine='auto'"):
        ttr.regress(GATED, engine="attention", **case.arguments())
    with pytest.raises(ValueError, match="no engine 'fast'.*recurrent"):
        ttr.regress(GATED, engine="fast", **case.arguments())


@pytest.mark.parametrize("name", FORMS)
def test_plan_is_regress_bound(name):
    case = make_case(FORMS[name])
    run = ttr.plan(case.problem, **case.arguments())
    assert torch.equal(run(**case.arguments()), ttr.regress(case.problem, **case.arguments()))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("capacity", [None, 12])
def test_steps_in_place_equal_steps(name, capacity):
    problem = FORMS[name]
    case = make_case(problem)
    kept = ttr.initial_state(problem, 2, 2, 3, 2, capacity=capacity, dtype=torch.float64)
    inplace, addresses = kept.clone(), {}
    for t in range(case.q.shape[1]):
        y, kept = ttr.step(problem, state=kept, **at(case, t))
        z, inplace = ttr.step(problem, state=inplace, inplace=True, **at(case, t))
        assert torch.equal(y, z)
        if t == 0:
            addresses = {n: inplace[n].data_ptr() for n in inplace}
    assert error(y, ttr.regress(problem, **case.arguments())[:, -1]) <= tolerance(torch.float64)
    if not issubclass(problem.form, Pairs) or capacity:
        assert {n: inplace[n].data_ptr() for n in inplace} == addresses


def test_a_full_state_refuses_and_stays():
    case = make_case(ATTENTION)
    state = ttr.initial_state(ATTENTION, 2, 2, 3, 2, capacity=3, dtype=torch.float64)
    with pytest.raises(ValueError, match="capacity of 3 pairs and needs 9.*larger capacity"):
        ttr.regress(ATTENTION, **{**case.arguments(), "state": state})
    assert torch.isneginf(state["log_weight"]).all() and not state.position.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FORMS)
def test_half_precision_comes_back_and_accumulates_wider(name, dtype):
    case = make_case(FORMS[name], dtype=dtype)
    y, state = ttr.regress(case.problem, return_state=True, **case.arguments())
    assert y.dtype == dtype and all(state[n].dtype == torch.float32 for n in state)
    assert error(y, ttr.oracle(case.problem, **case.arguments())) <= tolerance(dtype)


@pytest.mark.parametrize("name", FORMS)
def test_narrow_inputs_cost_their_conversion_alone(name):
    """q, k, v in bfloat16 with controls and state in float32 equal, to the bit, the same numbers in float32;
    only y is rounded."""
    case = make_case(FORMS[name], Sizes(time=40), dtype=torch.float32)
    narrow = {**case.arguments(), **{x: getattr(case, x).bfloat16() for x in "qkv"}}
    widened = {**narrow, **{x: narrow[x].float() for x in "qkv"}}
    _, state = ttr.regress(case.problem, return_state=True, **widened)
    (y, found), (expected, last) = (
        ttr.regress(case.problem, return_state=True, **{**call, "state": state}) for call in (narrow, widened)
    )
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected.bfloat16())
    assert all(found[part].dtype == torch.float32 and torch.equal(found[part], last[part]) for part in last)


def test_autocast_does_not_reach_the_memory():
    case = make_case(RIDGE, Sizes(time=40), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ttr.regress(RIDGE, **case.arguments())
    assert torch.equal(y, ttr.regress(RIDGE, **case.arguments()))


def test_diagnostics_report_residual_and_iterations():
    case = make_case(RIDGE)
    with ttr.diagnostics() as reported:
        ttr.regress(RIDGE, **case.arguments())
    ttr.regress(RIDGE, **case.arguments())
    assert len(reported.records) == 1
    assert reported.records[0]["iterations"] > 0 and float(reported.records[0]["residual"]) <= tolerance(
        torch.float64
    )


def test_checks_of_values_can_be_switched_off():
    case = make_case(GATED)
    wrong = {**case.arguments(), "v": case.v * torch.nan}
    with pytest.raises(ValueError, match="v holds NaN"):
        ttr.regress(GATED, **wrong)
    with ttr.checks(values=False):
        assert ttr.regress(GATED, **wrong).isnan().any()


@pytest.mark.parametrize("name", ["q", "k", "v"])
@pytest.mark.parametrize("wrong", [(torch.nan,), (torch.inf,), (-torch.inf,), (torch.inf, -torch.inf)])
def test_a_single_wrong_number_anywhere_is_seen(name, wrong):
    case = make_case(GATED)
    for place in (0, getattr(case, name).numel() // 2, -len(wrong)):
        spoilt = getattr(case, name).clone()
        spoilt.view(-1)[place : place + len(wrong) or None] = torch.tensor(wrong, dtype=spoilt.dtype)
        with pytest.raises(ValueError, match=f"{name} holds NaN or infinite"):
            ttr.regress(GATED, **{**case.arguments(), name: spoilt})


def test_numbers_whose_sum_is_infinite_are_no_fault():
    case = make_case(GATED)
    large = torch.full_like(case.v, 0.9 * torch.finfo(case.v.dtype).max)
    assert large.sum().isinf()
    with torch.no_grad():
        ttr.regress(GATED, **{**case.arguments(), "v": large})


@pytest.mark.parametrize(
    "control, wrong, reach",
    [
        ("log_decay", 0.5, "<= 0"),
        ("log_decay", torch.inf, "<= 0"),
        ("log_decay", torch.nan, "NaN"),
        ("step_size", -0.5, ">= 0"),
        ("step_size", torch.inf, "finite"),
        ("step_size", torch.nan, "NaN"),
    ],
)
def test_a_control_out_of_its_range_is_seen(control, wrong, reach):
    case = make_case(GATED)
    spoilt = case.controls[control].clone()
    spoilt.view(-1)[1] = wrong
    with pytest.raises(ValueError, match=f"{control}.*{reach}"):
        ttr.regress(GATED, **{**case.arguments(), control: spoilt})


def test_state_is_a_pytree_that_can_be_saved_selected_and_reordered():
    for problem in FORMS.values():
        _, state = ttr.regress(problem, return_state=True, **make_case(problem).arguments())
        again = ttr.State.from_state_dict(state.state_dict())
        doubled = torch.utils._pytree.tree_map(lambda x: x * 2, state)
        swapped = state.reorder(torch.tensor([1, 0]))
        for name in state:
            assert torch.equal(again[name], state[name])
            assert torch.equal(doubled[name], state[name] * 2)
            assert torch.equal(swapped[name], state[name].flip(0))
            assert torch.equal(ttr.State.cat([state.select([0]), state.select([1])])[name], state[name])
        assert state.nbytes == sum(state[n].numel() * 8 for n in state)
    with pytest.raises(ValueError, match="no 'position'"):
        ttr.State.from_state_dict({"memory": torch.zeros(1)})


def test_functorch_reaches_through():
    case = make_case(RIDGE)
    fields = {name: x for name, x in case.arguments().items() if name not in ("q", "state")}
    per_row = torch.func.vmap(lambda q: ttr.regress(RIDGE, q, **fields))(torch.stack([case.q, 2 * case.q]))
    assert error(per_row[1], ttr.regress(RIDGE, 2 * case.q, **fields)) <= tolerance(torch.float64)
    gradient = torch.func.grad(lambda q: ttr.regress(RIDGE, q, **fields).square().sum())(case.q)
    q = case.q.clone().requires_grad_()
    expected = torch.autograd.grad(ttr.regress(RIDGE, q, **fields).square().sum(), q)[0]
    assert error(gradient, expected) <= tolerance(torch.float64)


def test_problems_are_values():
    again = ttr.Problem.from_dict(GATED.to_dict())
    assert again == GATED and hash(again) == hash(GATED) and repr(again) == repr(GATED)
    with pytest.raises(ValueError, match="no solver called 'Nothing' here. Known: .*DeltaRule"):
        ttr.Problem.from_dict({**GATED.to_dict(), "solver": {"kind": "solver", "type": "Nothing"}})
    with pytest.raises(ValueError, match="solver missing"):
        ttr.Problem.from_dict({name: x for name, x in GATED.to_dict().items() if name != "solver"})


def test_verify_reports_what_is_broken(monkeypatch):
    def wrong(problem, setting: Setting):
        yield "something", 1.0, tolerance(setting.dtype)

    def raising(problem, setting: Setting):
        raise RuntimeError("no such thing")

    monkeypatch.setattr("ttr.laws.verify.LAWS", (Law(1, "wrong", wrong), Law(2, "raising", raising)))
    report = verify("gated-deltanet")
    assert not report
    assert "FAILED 1.0e+00 > 1e-09, something" in str(
        report
    ) and "FAILED raised RuntimeError: no such thing" in str(report)
    assert any(finding.refusal for finding in report.findings)


def test_singular_regressions_are_refused_in_a_sentence():
    case = make_case(RIDGE)
    with pytest.raises(ValueError, match="'ridge'.* must be above 0.0 and finite"):
        ttr.regress(RIDGE, **{**case.arguments(), "ridge": 0.0})
    empty = {
        **case.arguments(),
        "ridge": 0.0,
        "log_importance": torch.full((2, 9, 2), -torch.inf, dtype=torch.float64),
    }
    with ttr.checks(values=False):
        for engine in ("recurrent", "chunkwise-ridge"):
            with pytest.raises(ValueError, match="singular.*larger ridge"):
                ttr.regress(RIDGE, **empty, engine=engine)


def test_grouped_parameters_and_unknown_names_in_params():
    problem = ttr.catalogue["softmax-attention-qknorm"].problem
    case = make_case(problem)
    with pytest.raises(ValueError, match="'function.scale' is missing"):
        ttr.regress(problem, **dataclasses.replace(case, params={}).arguments())
    with pytest.raises(ValueError, match=r"must be a tensor of shape \[2\]"):
        ttr.regress(
            problem, **dataclasses.replace(case, params={"function.scale": torch.ones(3)}).arguments()
        )


def test_a_call_never_hands_back_the_callers_state():
    for problem in FORMS.values():
        case = make_case(problem, past=2)
        kept = case.state.clone()
        for run in (functools.partial(ttr.regress, engine="recurrent"), ttr.oracle):
            _, state = run(problem, return_state=True, **case.tokens(slice(0, 0), case.state).arguments())
            assert not {state[n].data_ptr() for n in state if state[n].numel()} & {
                case.state[n].data_ptr() for n in case.state
            }
        ttr.step(problem, state=state, inplace=True, **at(case, 0))
        assert all(torch.equal(case.state[n], kept[n]) for n in kept) and torch.equal(
            case.state.position, kept.position
        )


def test_in_place_is_all_or_nothing():
    case = make_case(ATTENTION, past=2)
    kept = case.state.clone()
    _, new = ttr.step(ATTENTION, state=case.state, inplace=True, **at(case, 0))
    assert new["keys"].shape[1] == 3 and torch.equal(case.state.position, kept.position)
    y, _ = ttr.step(ATTENTION, state=None, inplace=True, **at(case, 0))
    assert y.shape == (2, 2, 2)


class _Numbers(TorchDispatchMode):
    """Counts the numbers that all operations write."""

    made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.made += sum(
            x.numel()
            for x in (result if isinstance(result, (tuple, list)) else (result,))
            if isinstance(x, torch.Tensor)
        )
        return result


def test_gradients_of_packed_sequences_cost_what_the_sequences_do():
    """Not the number of sequences times the whole call, which slicing the call once per sequence would
    cost."""
    made = []
    for sequences in (16, 32):
        bounds = torch.tensor([0, *(4, 9) * (sequences // 2)]).cumsum(0)
        case = make_case(ATTENTION, Sizes(batch=1, time=int(bounds[-1]))).differentiable()
        y = ttr.regress(ATTENTION, **case.arguments(), cu_seqlens=bounds)
        with _Numbers() as numbers:
            torch.autograd.grad(y.sum(), list(case.leaves().values()))
        made.append(numbers.made)
    assert made[1] <= 2.2 * made[0]


@pytest.mark.parametrize("name", [*FORMS, "linear-attention-normalized"])
@pytest.mark.parametrize("capacity", [None, 12])
def test_a_saved_state_goes_on(name, capacity, tmp_path):
    from safetensors.torch import load_file, save_file

    problem = ttr.catalogue[name].problem
    case = make_case(problem, Sizes(batch=1))
    start = ttr.initial_state(problem, 1, 2, 3, 2, capacity=capacity, dtype=torch.float64)
    _, state = ttr.regress(problem, return_state=True, **case.tokens(slice(0, 4), start).arguments())
    save_file(state.state_dict(), tmp_path / "state.safetensors")
    again = ttr.State.from_state_dict(load_file(tmp_path / "state.safetensors"))
    rest = case.tokens(slice(4, None), again).arguments()
    whole = ttr.regress(problem, **case.arguments())
    for options in ({}, {"cu_seqlens": torch.tensor([0, 5])}):
        assert error(ttr.regress(problem, **rest, **options), whole[:, 4:]) <= tolerance(torch.float64)


def test_plan_keeps_what_it_was_given():
    from ttr.engines.torch.chunkwise_delta import ChunkwiseDelta

    case = make_case(GATED)
    run = ttr.plan(GATED, engine=ChunkwiseDelta(chunk=2), return_state=True, **case.arguments())
    y, state = run(**case.arguments())
    assert torch.equal(
        y, ttr.regress(GATED, engine=ChunkwiseDelta(chunk=2), **case.arguments())
    ) and state.position.tolist() == [9, 9]


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"log_decay": None}, "'log_decay' must be a tensor, got NoneType"),
        ({"cu_seqlens": [0, 9]}, "cu_seqlens must be a tensor"),
    ],
)
def test_wrong_types_are_refused_in_a_sentence(wrong, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    case = make_case(GATED, Sizes(batch=1))
    with pytest.raises(ValueError, match=words):
        ttr.regress(GATED, **{**case.arguments(), **wrong})
    with pytest.raises(ValueError, match="step takes one token.*Use regress"):
        ttr.step(GATED, **case.arguments())
    with pytest.raises(ValueError, match="There is no parameter 'nonsense'"):
        ttr.initial_state(GATED, 1, 2, 3, 2, params={"nonsense": case.q})
    with pytest.raises(ValueError, match="capacity of 0"):
        ttr.initial_state(GATED, 1, 2, 3, 2, capacity=0)
    with pytest.raises(ValueError, match="DeltaRule has no field steps. It has: gradient_at"):
        ttr.Problem.from_dict(
            {**GATED.to_dict(), "solver": {"kind": "solver", "type": "DeltaRule", "steps": 2}}
        )


def test_importance_that_overflows_is_refused():
    case = make_case(RIDGE, dtype=torch.float32)
    with pytest.raises(ValueError, match="log_importance exceeds 79.*Subtract a constant"):
        ttr.regress(RIDGE, **{**case.arguments(), "log_importance": case.controls["log_importance"] + 100})
    attention = Problem(Importance(), LocalConstant(), ExactLocalFit())
    case = make_case(attention, dtype=torch.float32)
    shifted = ttr.regress(
        attention, **{**case.arguments(), "log_importance": case.controls["log_importance"] + 100}
    )
    assert error(shifted, ttr.regress(attention, **case.arguments())) <= tolerance(torch.float32)


def test_a_weight_with_a_parameter_gets_its_gradient():
    @dataclasses.dataclass(frozen=True)
    class _Learned(Weights):
        retention = "head"

        def parameters(self, heads, key_size, value_size):
            return {"rate": Parameter((heads,), constant(0.3))}

        def log_retention(self, controls, params, heads, like):
            return -params["rate"]

    problem = Problem(_Learned(), LocalConstant(), ExactLocalFit())
    case = make_case(problem).differentiable()
    outputs = [run(problem, **case.arguments()) for run in (ttr.regress, ttr.oracle)]
    gradients = [torch.autograd.grad(y.square().sum(), case.params["weights.rate"])[0] for y in outputs]
    assert gradients[0].abs().min() > 0 and error(*gradients) <= tolerance(torch.float64)


def test_long_decays_add_up():
    case = make_case(ATTENTION, Sizes(batch=1, time=300, heads=1))
    y, reference = (
        ttr.regress(ATTENTION, engine=engine, **case.arguments()) for engine in ("attention", "recurrent")
    )
    assert error(y, reference) <= tolerance(torch.float64)
