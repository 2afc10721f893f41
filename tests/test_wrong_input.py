"""Invalid calls, states and sizes end in a sentence at every entry point, for invalid objects of every
kind."""

import functools

import jaxtyping
import numpy as np
import pytest
import torch

import ttr
from ttr.engines.native.engine import Native
from ttr.laws.law import sentence
from ttr.laws.rows import make_case

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{words}")
    for words in (
        "The PyTorch API of nested tensors",
        "Sparse CSR tensor support",
        ".*quantize_per_tensor",
        "torch.ao.quantization",
    )
]
NAMES = ("gated-deltanet", "softmax-attention", "mesanet", "ttt-mlp", "rwkv6")
ENGINES = (["native"], ("native",), None, 3, Native, {"a": 1}, "nope", torch.zeros(2), np.zeros(2), b"auto")
PROBLEMS = ("gla", None, {"a": 1}, [1], ttr.Problem, ttr.catalogue["gla"].problem.solver, torch.zeros(1))
PARAMS = ([1], "x", 3, torch.zeros(2), {1: 2}, {"x": 1})
SIZES = (
    {"batch": -1},
    {"batch": 1.5},
    {"heads": 0},
    {"heads": (2, 2)},
    {"heads": (2, 3, 2)},
    {"heads": "2"},
    {"key_size": -1},
    {"key_size": 2.5},
    {"value_size": None},
    {"capacity": 0},
    {"capacity": 1.5},
    {"dtype": torch.int64},
    {"dtype": "float32"},
    {"dtype": torch.complex64},
    {"device": "nowhere"},
    {"params": [1]},
    {"params": {"x": 1}},
)
LAYERS = (
    {"d_model": "8"},
    {"d_model": 0},
    {"d_model": 8.0},
    {"heads": 2.0},
    {"heads": "2"},
    {"key_size": -1},
    {"key_size": 1.5},
    {"value_size": "3"},
    {"engine": ["native"]},
    {"engine": None},
    {"key_heads": 0},
    {"value_heads": -1},
    {"memory": "gla"},
    {"memory": None},
    {"layer": -1},
    {"layer": 1.5},
    {"layers": 0},
    {"layer": 3, "layers": 2},
)
BOUNDS = (
    [0, 9],
    np.array([0, 9]),
    3,
    "x",
    torch.tensor([0.0, 9.0]),
    torch.tensor(3),
    torch.tensor([[0, 9]]),
    torch.zeros(0, dtype=torch.int64),
    torch.tensor([0, 9]).to_sparse(),
    torch.tensor([0, 9], device="meta"),
    torch.tensor([0, 5, 3, 9]),
    torch.tensor([-1, 9]),
)


@pytest.fixture(autouse=True)
def refusals_reach_the_caller(monkeypatch):
    """Let the library's own messages through, which the tests' shape checks would preempt."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def odd(x):
    """Tensors of every kind that is invalid in place of x, and objects that are no tensors."""
    x = x.detach()
    return {
        "sparse": x.to_sparse(),
        "compressed": x.reshape(-1, x.shape[-1]).to_sparse_csr(),
        "complex": x.to(torch.complex128),
        "integers": x.long(),
        "truths": x.bool(),
        "quantised": torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([x, x]),
        "jagged": torch.nested.nested_tensor([x.reshape(-1, 1)] * 2, layout=torch.jagged),
        "numpy": x.numpy(),
        "list": x.tolist(),
        "none": None,
        "words": "x",
        "bytes": x.float().to(torch.float8_e4m3fn),
        "reordered": x.float().to_mkldnn(),
        "meta": x.to("meta"),
        "too few axes": torch.ones(3, dtype=x.dtype),
        "too many axes": x[None],
    }


def states():
    """Objects that are not valid states."""
    position = torch.zeros(2, dtype=torch.int64)
    return ({}, [1], 3, *(ttr.State(tensors, position) for tensors in ({}, None, [1])))


def entries(problem, call, token):
    """Every way to make the call and the step, also by a plan made with the ``right`` arguments."""
    run = ttr.plan(problem, **right(problem)[1])
    return {
        "regress": functools.partial(ttr.regress, problem, **call),
        "plan": functools.partial(ttr.plan, problem, **call),
        "explain": functools.partial(ttr.explain, problem, **call),
        "step": functools.partial(ttr.step, problem, **token),
        "plan of a token": functools.partial(ttr.plan, problem, **token),
        "planned token": functools.partial(run, **token),
        "oracle": functools.partial(
            ttr.oracle, problem, **{name: x for name, x in call.items() if name != "engine"}
        ),
    }


@functools.cache
def right(problem):
    """A valid call and its first token, as keyword arguments."""
    case = make_case(problem, past=2)
    call = case.arguments()
    return call, {
        name: x[:, 0] if isinstance(x, torch.Tensor) and name != "ridge" else x for name, x in call.items()
    }


def accepted(problem, wrong, token=None):
    """The entry points that accept a call in which these arguments are wrong."""
    call, first = right(problem)
    ways = entries(problem, {**call, **wrong}, {**first, **(wrong if token is None else token)})
    return [way for way, run in ways.items() if sentence(run) is None]


@pytest.mark.parametrize("name", NAMES)
def test_odd_tensors(name):
    problem = ttr.catalogue[name].problem
    call, first = right(problem)
    assert len(accepted(problem, {})) == 7
    for part, x in call.items():
        if isinstance(x, torch.Tensor):
            pairs = zip(odd(x).items(), odd(first[part]).values())
            assert not [
                (part, words, ways)
                for (words, bad), other in pairs
                if (ways := accepted(problem, {part: bad}, {part: other}))
            ]


@pytest.mark.parametrize("name", NAMES)
def test_odd_parameters_and_states(name):
    problem = ttr.catalogue[name].problem
    call, _ = right(problem)
    for part, x in call["params"].items():
        assert not [
            (part, w, ways)
            for w, bad in odd(x).items()
            if (ways := accepted(problem, {"params": {**call["params"], part: bad}}))
        ]
    state = call["state"]
    for part, x in state.tensors.items():
        assert not [
            (part, w, ways)
            for w, bad in odd(x).items()
            if (ways := accepted(problem, {"state": state.replace(**{part: bad})}))
        ]
    positions = {
        **odd(state.position.double()),
        "int32": state.position.int(),
        "before the first": state.position - 10,
        "behind the last": state.position + 2**63 - 4,
    }
    positions["integers"] = state.position[:1]
    assert not [
        (w, ways)
        for w, bad in positions.items()
        if (ways := accepted(problem, {"state": ttr.State(state.tensors, bad)}))
    ]


@pytest.mark.parametrize("name", NAMES)
def test_odd_arguments(name):
    problem = ttr.catalogue[name].problem
    for part, odds in (("engine", ENGINES), ("params", PARAMS), ("state", states())):
        for bad in odds:
            assert set(accepted(problem, {part: bad})) <= ({"oracle"} if part == "engine" else set()), (
                part,
                bad,
            )
    call, _ = right(problem)
    one = {
        part: x[:1] if isinstance(x, torch.Tensor) and part != "ridge" else x for part, x in call.items()
    } | {"state": None}
    for bad in BOUNDS:
        for run in (ttr.regress, ttr.oracle, ttr.plan, ttr.explain):
            assert sentence(functools.partial(run, problem, **one, cu_seqlens=bad)) is not None, (run, bad)


@pytest.mark.parametrize("bad", PROBLEMS, ids=lambda bad: str(type(bad)))
def test_what_is_no_problem(bad):
    call, first = right(ttr.catalogue["gated-deltanet"].problem)
    sizes = {"heads": 2, "key_size": 3, "value_size": 2}
    runs = {
        "regress": functools.partial(ttr.regress, bad, **call),
        "oracle": functools.partial(ttr.oracle, bad, **call),
        "step": functools.partial(ttr.step, bad, **first),
        "plan": functools.partial(ttr.plan, bad, **call),
        "plan of a token": functools.partial(ttr.plan, bad, **first),
        "explain": functools.partial(ttr.explain, bad),
        "init_params": functools.partial(ttr.init_params, bad, **sizes),
        "initial_state": functools.partial(ttr.initial_state, bad, 1, **sizes),
        "verify": functools.partial(ttr.verify, bad),
        "Mixer": functools.partial(ttr.nn.Mixer, 8, bad, heads=2),
    }
    if isinstance(bad, str):  # verify accepts the name of an entry
        runs.pop("verify")
    assert not [way for way, run in runs.items() if sentence(run) is None]


@pytest.mark.parametrize("name", NAMES)
def test_odd_sizes(name):
    problem = ttr.catalogue[name].problem
    right_sizes = {
        "batch": 1,
        "heads": 2,
        "key_size": 3,
        "value_size": 2,
        "params": right(problem)[0]["params"] or None,
    }
    for wrong in SIZES:
        sizes = right_sizes | wrong
        assert sentence(functools.partial(ttr.initial_state, problem, **sizes)) is not None, wrong
        if set(wrong) <= {"heads", "key_size"}:
            of_a_layer = {part: sizes[part] for part in ("heads", "key_size", "value_size")}
            assert sentence(functools.partial(ttr.init_params, problem, **of_a_layer)) is not None, wrong
            assert sentence(functools.partial(ttr.explain, problem, **of_a_layer)) is not None, wrong


@pytest.mark.parametrize(
    "wrong",
    [
        {"engines": ["nope"]},
        {"engines": 3},
        {"engines": [None]},
        {"engines": [["native"]]},
        {"dtype": torch.int64},
        {"dtype": "float64"},
        {"device": "nowhere"},
        {"device": 3.5},
    ],
    ids=str,
)
def test_verify_says_what_it_cannot_try(wrong):
    assert sentence(functools.partial(ttr.verify, "gated-deltanet", slow=False, **wrong)) is not None


@pytest.mark.parametrize("name", NAMES)
def test_layers(name):
    for wrong in LAYERS:
        settings = {"d_model": 8, "memory": ttr.catalogue[name], "heads": 2} | wrong
        assert sentence(functools.partial(ttr.nn.Mixer, **settings)) is not None, wrong
    layer, x = ttr.nn.Mixer(8, ttr.catalogue[name], heads=2), torch.randn(2, 3, 8)
    _, state = layer(x, return_state=True)
    assert not [w for w, bad in odd(x).items() if sentence(functools.partial(layer, bad)) is None]
    assert not [
        w for w, bad in odd(x[:, 0]).items() if sentence(functools.partial(layer.step, bad, state)) is None
    ]
    assert "float64" in sentence(functools.partial(layer, x.double()))
    bad_states = [
        *states(),
        state.replace(position=state.position.int()),
        state.replace(position=-state.position),
        state.select([0]),
    ]
    bad_states += [state.replace(**{part: bad}) for part in state for bad in odd(state[part]).values()]
    for bad in bad_states:
        assert (
            sentence(functools.partial(layer, x, bad)) is not None
            and sentence(functools.partial(layer.step, x[:, 0], bad)) is not None
        ), bad


@pytest.mark.parametrize("name", ["gla", "forgetting-attention", "mesanet", "mamba"])
def test_verbs_of_a_state(name):
    problem = ttr.catalogue[name].problem
    case = make_case(problem)
    _, state = ttr.regress(problem, return_state=True, **case.arguments())
    controls = {part: case.controls[part] for part in problem.weights.controls()}
    combine = functools.partial(ttr.State.combine, problem, params=case.params, **controls)
    assert combine(state, state).position.tolist() == [18, 18]
    bad_states = [
        *states(),
        None,
        state.replace(position=state.position.double()),
        state.replace(position=state.position[0]),
        ttr.State(state.tensors, state.position, 3.5),
    ]
    bad_states += [state.replace(**{part: bad}) for part in state for bad in odd(state[part]).values()]
    unsound = [
        state.replace(position=state.position - 20),
        state.replace(position=state.position + 2**62),
        *(
            state.replace(**{part: torch.full_like(x, number)})
            for part, x in state.tensors.items()
            for number in (torch.nan, torch.inf)
        ),
    ]
    for bad in bad_states + unsound:
        assert (
            sentence(functools.partial(combine, bad, state)) is not None
            and sentence(functools.partial(combine, state, bad)) is not None
        ), bad
        if isinstance(bad, ttr.State):
            assert sentence(functools.partial(bad.rewind, problem, 1)) is not None, bad
    for bad in bad_states:
        assert sentence(functools.partial(ttr.State.cat, [state, bad])) is not None, bad
    for bad in ([], None, state, (1,)):
        assert sentence(functools.partial(ttr.State.cat, bad)) is not None, bad
    for part, x in controls.items():
        for bad in [
            *odd(x).values(),
            x[:, 1:],
            x[:, :, :1],
            x * torch.nan,
            x.abs() + 1 if part == "log_decay" else x * torch.nan,
        ]:
            assert sentence(functools.partial(combine, state, state, **{part: bad})) is not None, (part, bad)
    for bad in PARAMS[:4]:
        assert sentence(functools.partial(combine, state, state, params=bad)) is not None, bad


def test_loaded_and_selected_states():
    problem = ttr.catalogue["softmax-attention"].problem
    _, state = ttr.regress(problem, return_state=True, **make_case(problem).arguments())
    saved = state.state_dict()
    unsound = {**saved, "keys": saved["keys"] * torch.nan}
    for bad in (
        None,
        [1],
        {"x": 1},
        {**saved, "capacity": torch.tensor([1, 2])},
        {**saved, "position": saved["position"].double()},
        {**saved, "position": saved["position"][:1]},
        {**saved, "keys": saved["keys"].long()},
        {1: 2, **saved},
        unsound,
    ):
        assert sentence(functools.partial(ttr.State.from_state_dict, bad)) is not None, bad
    with ttr.checks(values=False):
        assert ttr.State.from_state_dict(unsound)["keys"].isnan().all()
    for rows in (
        [5],
        [-7],
        [1.5],
        ["a"],
        None,
        3,
        torch.tensor([5]),
        torch.tensor([0.5]),
        torch.tensor(0),
        [[0, 1]],
        "ab",
        [None],
        [True],
        {0: 1},
    ):
        assert sentence(functools.partial(state.select, rows)) is not None, rows
    for tokens in (-1, 1.5, "1", None, 100, torch.tensor(1)):
        assert sentence(functools.partial(state.rewind, problem, tokens)) is not None, tokens
    assert sentence(functools.partial(state.rewind, "gla", 1)) and sentence(
        functools.partial(ttr.State.combine, "gla", state, state)
    )
    assert state.select([]).position.shape == (0,) and state.select([1, 0, 1]).position.tolist() == [9, 9, 9]


@pytest.mark.parametrize("inplace", [False, True])
def test_a_state_that_was_sound_is_checked_again_after_a_write(inplace):
    problem = ttr.catalogue["gated-deltanet"].problem
    token = {
        part: x.contiguous() if isinstance(x, torch.Tensor) else x for part, x in right(problem)[1].items()
    }
    run = ttr.plan(problem, **token, inplace=inplace)
    with torch.no_grad():
        _, state = run(**{**token, "state": token["state"].clone()})
        state["memory"][0, 0, 0, 0] = torch.nan
        assert "'memory' holds NaN" in sentence(functools.partial(run, **{**token, "state": state}))
        assert state.position.tolist() == [3, 3] and state["memory"].isnan().sum() == 1
        copied = ttr.State({"memory": state["memory"].clone()}, state.position)
        assert "'memory' holds NaN" in sentence(functools.partial(run, **{**token, "state": copied}))
        with ttr.checks(values=False):
            assert run(**{**token, "state": state})[0].isnan().any()


def test_a_memory_that_overflows_is_refused_with_the_next_token():
    problem = ttr.catalogue["linear-attention"].problem
    q = torch.full((1, 1, 2), 1e19)
    state = ttr.initial_state(problem, 1, 1, 2, 2)
    y, state = ttr.step(problem, q, q, 1e19 * torch.ones(1, 1, 2), state)
    for inplace in (False, True):
        run = ttr.plan(problem, q, q, q, state=ttr.initial_state(problem, 1, 1, 2, 2), inplace=inplace)
        _, state = run(q, q, q, ttr.initial_state(problem, 1, 1, 2, 2))
        y, state = run(q, q, 1e38 * torch.ones_like(q), state)
        assert y.isinf().all()
        assert "'memory' holds NaN or infinite numbers" in sentence(functools.partial(run, q, q, q, state))


def test_a_component_that_cannot_be_hashed_is_no_part_of_a_problem():
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class _Listed(ttr.problem.Weights):
        rates: list = dataclasses.field(default_factory=list)

    gla = ttr.catalogue["gla"].problem
    assert "cannot be hashed" in sentence(functools.partial(ttr.Problem, _Listed(), gla.function, gla.solver))
