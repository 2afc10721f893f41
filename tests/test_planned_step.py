"""The planned step of a layer: as the layer step by step, and never stale: what changes in a layer, or in the
call, changes the result."""

import contextlib
import copy
import gc
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ttr
from tests.tiers import TIERS, tier
from ttr import dispatch
from ttr.engines.native import attention as native
from ttr.laws.tolerances import error, tolerance
from ttr.layer import planned_step
from ttr.nn import Mixer

NAMES = sorted(name for name in ttr.catalogue if ttr.catalogue[name].problem.function.causal)


def layer(name="gated-deltanet", dtype=torch.float64, d_model=24, **others):
    torch.manual_seed(0)
    return Mixer(d_model, ttr.catalogue[name], heads=2, **others).to(dtype)


def stepped(mixer, x, state, inplace=False):
    """The outputs of ``step``, token by token, and the last state."""
    made = []
    for token in x.unbind(1):
        y, state = mixer.step(token, state, inplace=inplace)
        made.append(y)
    return torch.stack(made, dim=1), state


def plans(mixer):
    return [plan for plan in planned_step._plans.get(mixer, {}).values() if plan is not None]


@pytest.fixture(autouse=True)
def fresh_bindings(monkeypatch):
    monkeypatch.setattr("ttr.dispatch._STEPS", dispatch.Bound())


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_planned_tokens_are_those_of_the_sequence(name, inplace):
    mixer, rows = layer(name, torch.float32), 3
    x = 0.3 * torch.randn(rows, 9, 24)
    with torch.no_grad():
        wanted, last = mixer(x, return_state=True)
        _, state = mixer(x[:, :2], return_state=True)
        y, after = stepped(mixer, x[:, 2:], state.clone() if inplace else state, inplace)
        assert plans(mixer) and error(y, wanted[:, 2:]) <= tolerance(torch.float32)
        assert torch.equal(after.position, last.position)
        for key in last:
            assert error(after[key], last[key]) <= tolerance(torch.float32), key
        if not inplace:  # the given state is as it was
            again, _ = stepped(mixer, x[:, 2:], state)
            assert torch.equal(again, y)


@pytest.mark.parametrize("where", TIERS)
@pytest.mark.parametrize("name", ["gated-deltanet", "softmax-attention", "ttt-linear", "mamba"])
def test_every_tier_plans(name, where):
    mixer, x = layer(name), torch.randn(2, 6, 24, dtype=torch.float64)
    with tier(where), torch.no_grad():
        y, _ = stepped(mixer, x, mixer.initial_state(2))
        assert plans(mixer) and error(y, mixer(x)) <= tolerance(torch.float64)


def test_weights_that_change_are_used(monkeypatch):
    mixer, x = layer(), torch.randn(1, 1, 24, dtype=torch.float64)

    def agrees():
        with torch.no_grad():
            state = mixer.initial_state(1)
            y, _ = stepped(mixer, x, state)
            return error(y, mixer(x)) <= tolerance(torch.float64)

    assert agrees() and agrees() and len(plans(mixer)) == 1
    with torch.no_grad():
        mixer.q_proj.weight.mul_(2)
        mixer.v_proj.weight.data += 1  # not counted by torch as a change
    assert agrees()
    mixer.k_proj.weight = nn.Parameter(torch.randn_like(mixer.k_proj.weight))
    assert agrees()
    mixer.o_proj.load_state_dict({"weight": torch.randn_like(mixer.o_proj.weight)})
    assert agrees()
    mixer.o_proj.weight = nn.Parameter(mixer.o_proj.weight.mT.contiguous().mT)
    assert agrees()
    mixer.float()
    x = x.float()
    with torch.no_grad():
        y, _ = stepped(mixer, x, mixer.initial_state(1))
        assert y.dtype == torch.float32 and error(y, mixer(x)) <= tolerance(torch.float32)


class Tagged(torch.Tensor):
    """Numbers of a class that may keep them anywhere."""


def test_tensors_of_another_class_stay_with_torch():
    mixer, x = layer(), torch.randn(1, 24, dtype=torch.float64)
    with torch.no_grad():
        y, _ = mixer.step(x, mixer.initial_state(1))
        mixer.k_proj.weight = nn.Parameter(mixer.k_proj.weight.data.as_subclass(Tagged))
        for _ in range(2):
            assert torch.allclose(mixer.step(x, mixer.initial_state(1))[0], y)


def test_plans_of_a_layer_stay_few(monkeypatch):
    monkeypatch.setattr(dispatch.Bound, "most", 3)
    mixer = layer()
    with torch.no_grad():
        for rows in range(1, 9):
            mixer.step(torch.randn(rows, 24, dtype=torch.float64), mixer.initial_state(rows))
    assert 1 <= len(planned_step._plans[mixer]) <= 3


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def replaced(mixer):
    doubled = Doubled(24, 24, bias=False, dtype=torch.float64)
    doubled.weight = mixer.o_proj.weight
    mixer.o_proj = doubled


def hooked(mixer):
    mixer.o_proj.register_forward_hook(lambda module, given, made: 2 * made)


def hooked_before(mixer):
    mixer.o_proj.register_forward_pre_hook(lambda module, given: (2 * given[0],))


def patched(mixer):
    forward = mixer.o_proj.forward
    mixer.o_proj.forward = lambda x: 2 * forward(x)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("change", [replaced, hooked, hooked_before, patched])
def test_a_layer_that_does_more_than_its_tensors_say_is_not_planned(change, first):
    mixer, x = layer(), torch.randn(1, 24, dtype=torch.float64)
    with torch.no_grad():
        before, _ = layer().step(x, mixer.initial_state(1))
        for _ in range(2 * first):
            mixer.step(x, mixer.initial_state(1))
        change(mixer)
        for _ in range(2):
            after, _ = mixer.step(x, mixer.initial_state(1))
            assert torch.allclose(after, 2 * before)


def test_a_copy_has_plans_of_its_own():
    mixer, x = layer(), torch.randn(1, 24, dtype=torch.float64)
    with torch.no_grad():
        y, _ = mixer.step(x, mixer.initial_state(1))
        copied = copy.deepcopy(mixer)
        copied.o_proj.weight.mul_(3)
        for _ in range(2):
            assert torch.allclose(copied.step(x, copied.initial_state(1))[0], 3 * y)
            assert torch.equal(mixer.step(x, mixer.initial_state(1))[0], y)


def test_a_planned_layer_can_be_freed():
    mixer = layer()
    with torch.no_grad():
        for _ in range(2):
            mixer.step(torch.randn(1, 24, dtype=torch.float64), mixer.initial_state(1))
    assert plans(mixer)
    watch = weakref.ref(mixer)
    del mixer
    gc.collect()
    assert watch() is None


def test_gradients_are_never_planned():
    mixer, x = layer(), torch.randn(1, 24, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(2):
            mixer.step(x, mixer.initial_state(1))
    y, _ = mixer.step(x, mixer.initial_state(1))
    assert y.requires_grad


@pytest.mark.parametrize(
    "name", ["ttt-linear", "ttt-mlp", "titans", "lact", "atlas", "moneta", "yaad", "memora"]
)
def test_every_token_reports_its_diagnostics(name):
    mixer, x = layer(name), torch.randn(1, 24, dtype=torch.float64)
    with torch.no_grad():
        state = mixer.initial_state(1)
        for reports in (True, False, False, True):  # before and after the step is planned
            with ttr.diagnostics() if reports else contextlib.nullcontext() as reported:
                _, state = mixer.step(x, state)
            assert not reports or len(reported.records) == 1


@pytest.mark.parametrize("name", ["ttt-linear", "titans"])
def test_a_bound_step_reports_its_diagnostics(name):
    mixer, x = layer(name), torch.randn(1, 24, dtype=torch.float64)
    with torch.no_grad():
        state, memory = mixer.initial_state(1), mixer.memory_step(False)
        for reports in (True, False, False, True):
            with ttr.diagnostics() if reports else contextlib.nullcontext() as reported:
                _, state = mixer.around_memory(x, state, memory)
            assert not reports or len(reported.records) == 1


def test_a_dispatch_mode_sees_every_token():
    mixer, x, counted = layer("softmax-attention"), torch.randn(1, 24, dtype=torch.float64), []
    with torch.no_grad():
        state = mixer.initial_state(1)
        for _ in range(3):
            with FlopCounterMode(display=False) as counter:
                _, state = mixer.step(x, state)
            counted.append(counter.get_total_flops())
    assert counted[0] <= counted[1] <= counted[2]
    assert counted[0] >= 4 * 2 * 24 * 24


@pytest.mark.parametrize("name", ["gated-deltanet", "softmax-attention", "mesanet", "titans"])
def test_a_token_that_is_refused_changes_nothing(name):
    mixer = layer(name)
    x = torch.randn(2, 4, 24, dtype=torch.float64)
    with torch.no_grad():
        y, state = stepped(mixer, x, mixer.initial_state(2), inplace=True)
        before = state.clone()
        for wrong, words in (
            (x[:, 0] * torch.nan, "NaN"),
            (x[:, 0, :5], "channels"),
            (x[:1, 0], "sequences|initial_state"),
            (x[:, 0].float(), "dtype|float"),
        ):
            with pytest.raises(ValueError, match=words):
                mixer.step(wrong, state, inplace=True)
        assert all(torch.equal(state[key], before[key]) for key in before)
        assert torch.equal(state.position, before.position)


WRONG = {
    "mesanet": ("log_decay", 0.5, "log_decay"),
    "titans": ("step_size", -1.0, "step_size"),
    "mlstm": ("log_importance", torch.nan, "log_importance"),
    "forgetting-attention": ("log_decay", 0.5, "log_decay"),
    "softmax-attention-qknorm": ("function.scale", torch.nan, "scale"),
    "memora": ("function.w1", torch.nan, "w1"),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", WRONG)
def test_a_bound_step_refuses_what_any_step_refuses(name, inplace):
    mixer, call = layer(name), {}

    def remember(token, state, controls, params):
        call.update(token=token, state=state, controls=dict(controls), params=dict(params))
        return mixer.memory_step(False)(token, state, controls, params)

    with torch.no_grad():
        mixer.around_memory(torch.randn(2, 24, dtype=torch.float64), mixer.initial_state(2), remember)
        kind, number, words = WRONG[name]
        token, state, group = call["token"], call["state"], call["params" if "." in kind else "controls"]
        for wrong in (False, False, True):
            if wrong:
                group[kind] = torch.full_like(group[kind], number)
                before = state.clone()
                with pytest.raises(ValueError, match=words):
                    mixer.memory_step(inplace)(token, state, call["controls"], call["params"])
                assert all(torch.equal(state[key], before[key]) for key in before)
            else:
                _, state = mixer.memory_step(inplace)(token, state, call["controls"], call["params"])


@pytest.mark.parametrize("name", ["mesa", "intention"])
def test_a_first_token_that_cannot_be_solved_says_so(name):
    """In the words of any step, and the next token is taken."""
    problem = ttr.catalogue[name].problem
    call = {"log_decay": torch.zeros(1, 2)} if "log_decay" in problem.controls() else {}
    q, k, v = torch.randn(3, 1, 2, 4)
    state = ttr.initial_state(problem, 1, 2, 4, 4)
    with pytest.raises(ValueError, match="ridge"):
        ttr.step(problem, q, 1e18 * k, v, state, ridge=1e-30, **call)
    y, after = ttr.step(problem, q, k, v, state, ridge=1.0, **call)
    wanted, _ = ttr.step(problem, q, k, v, state, ridge=1.0, engine="recurrent", **call)
    assert error(y, wanted) <= tolerance(torch.float32) and after.position.item() == 1


# ------------------------------------------------------------------------------------- the buffers of pairs
ATTENTION = ttr.catalogue["softmax-attention"].problem


def pairs(count, rows=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(rows, count, 2, 4, dtype=dtype, generator=generator) for _ in range(3)]


def advanced(state, count):
    for q, k, v in zip(*(x.unbind(1) for x in pairs(count))):
        y, state = ttr.step(ATTENTION, q, k, v, state)
    return y, state


def test_states_that_share_a_buffer_do_not_see_each_other():
    _, start = ttr.regress(ATTENTION, *pairs(5), return_state=True)
    _, trunk = advanced(start, 3)
    kept = trunk.clone()
    ends = [advanced(trunk, count)[1] for count in (7, 2, 40)]
    for end, count in zip(ends, (7, 2, 40)):
        _, wanted = advanced(kept.clone(), count)
        assert all(torch.equal(end[name], wanted[name]) for name in wanted)
    assert all(torch.equal(trunk[name], kept[name]) for name in kept)


def test_a_growing_cache_is_copied_seldom():
    _, state = ttr.regress(ATTENTION, *pairs(100), return_state=True)
    places = set()
    for _ in range(300):
        _, state = advanced(state, 1)
        places.add(state["keys"].data_ptr())
    assert len(places) <= 4 and state["keys"].shape[1] == 400


def test_tensors_of_a_growing_state_can_be_saved(tmp_path):
    mixer, x = layer("softmax-attention"), torch.randn(1, 24, dtype=torch.float64)
    with torch.no_grad():
        state = mixer.initial_state(1)
        for _ in range(3):
            _, state = mixer.step(x, state)
    torch.save(state.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.state_dict().items())


def test_one_thread_alone_takes_a_slot():
    _, start = ttr.regress(ATTENTION, *pairs(3), return_state=True)
    _, start = advanced(start, 2)
    for _ in range(20):
        together, made = threading.Barrier(2), {}

        def run(count, start=start, together=together, made=made):
            together.wait()
            made[count] = advanced(start, count)[1]

        threads = [threading.Thread(target=run, args=(count,)) for count in (4, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for count, state in made.items():
            assert torch.equal(state["keys"][:, 5:], pairs(count)[1])


def test_a_graph_that_saved_pairs_outlives_later_ones():
    _, start = ttr.regress(ATTENTION, *pairs(70), return_state=True)
    _, start = advanced(start, 1)
    q, k, v = (x.requires_grad_() for x in pairs(4))
    y = ttr.regress(ATTENTION, q, k, v, state=start)
    advanced(start, 2)
    y.sum().backward()
    assert q.grad is not None


def test_buffers_made_in_inference_mode_are_left_there():
    with torch.inference_mode():
        _, state = ttr.regress(ATTENTION, *pairs(3), return_state=True)
        _, state = advanced(state, 2)
    y, state = advanced(state, 2)
    assert state["keys"].shape[1] == 7 and not y.is_inference()


@pytest.mark.parametrize("inplace", [False, True])
def test_only_filled_slots_are_read_and_one_is_written(inplace):
    state = ttr.initial_state(ATTENTION, 1, 2, 4, 4, capacity=50, dtype=torch.float64)
    free, first = ttr.initial_state(ATTENTION, 1, 2, 4, 4, dtype=torch.float64), state
    for q, k, v in zip(*(x.unbind(1) for x in pairs(9))):
        wanted, free = ttr.step(ATTENTION, q, k, v, free)
        y, state = ttr.step(ATTENTION, q, k, v, state, inplace=inplace)
        assert error(y, wanted) <= tolerance(torch.float64)
    assert (state["keys"] is first["keys"]) == inplace
    assert torch.equal(state["keys"][:, :9], free["keys"]) and (state["keys"][:, 9:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("where", [name for name in TIERS if name != "torch"])
def test_the_kernel_reads_all_pairs(where, dtype):
    generator = torch.Generator().manual_seed(0)
    for heads, key_heads, count, key_size, value_size in (
        *((4, 4, 1, 64, 64), (4, 2, 37, 13, 7), (6, 1, 5, 8, 200), (2, 2, 300, 1, 1)),
    ):
        q, k, v = (
            torch.randn(shape, dtype=torch.float64, generator=generator)
            for shape in (
                (2, heads, key_size),
                (2, count, key_heads, key_size),
                (2, count, key_heads, value_size),
            )
        )
        log_weight = -150 * torch.rand(2, count, heads, dtype=torch.float64, generator=generator)
        log_weight[:, -1] = 0
        log_weight[0, : count // 2] = -torch.inf
        # a common factor of all weights changes nothing, however large or small
        for weight in (None, log_weight, log_weight + 2000, log_weight - 2000):
            logits = torch.einsum("bhk,bnhk->bnh", q, k.repeat_interleave(heads // key_heads, 2)) * 3
            p = (logits if weight is None else logits + weight).softmax(1)
            wanted = torch.einsum("bnh,bnhv->bhv", p, v.repeat_interleave(heads // key_heads, 2))
            given = [x.to(dtype) for x in (q, k.transpose(0, 1).contiguous().transpose(0, 1), v)]
            with tier(where):
                y = native.attend(*given, None if weight is None else weight.to(dtype), 3.0)
            assert error(y, wanted) <= tolerance(dtype)
