"""``ttr reproduce``: biases and rates of local fits, layers as regressions, and solvers."""

import dataclasses
import importlib
import json
import math
from pathlib import Path

import pytest
import torch

from ttr.experiments.picture import png
from ttr.experiments.reproduce import boundary, convergence, identities, published, recursive, solving
from ttr.experiments.reproduce.claims.identities import DESIGN_SPACE, FROZEN, LAYERS, LEAST_SQUARES_RECURRENCE
from ttr.experiments.reproduce.claims.mathematics import BOUNDARY_BIAS, CONVERGENCE, SOLVERS
from ttr.experiments.reproduce.experiment import SCALES, TUNING_SEED, Band, verdicts
from ttr.experiments.reproduce.learners import least_squares, local_linear, softmax
from ttr.laws.tolerances import FLOAT32, FLOAT64, error
from ttr.solvers.chebyshev import Chebyshev
from ttr.solvers.conjugate_gradient import ConjugateGradient
from ttr.tasks.regression import STREAMS, arc, linear_map, smooth_map

SMALL = {
    "boundary-bias": {"streams": dict.fromkeys(SCALES, 8)},
    "convergence": {"streams": dict.fromkeys(SCALES, 1)},
    "least-squares-recurrence": {"sizes": LEAST_SQUARES_RECURRENCE.sizes | {"length": 40, "size": 4}},
    "design-space": {"sizes": DESIGN_SPACE.sizes | {"length": 20, "size": 4}},
    "solvers": {"iterations": 4, "streams": dict.fromkeys(SCALES, 1)},
}
"""Sizes that are quick; the figures have the names of the whole experiment."""

FOUND = {
    found.name: dataclasses.replace(found, **SMALL[found.name])
    for found in (BOUNDARY_BIAS, CONVERGENCE, LEAST_SQUARES_RECURRENCE, DESIGN_SPACE, SOLVERS)
}


def compute(cells, **changes):
    """The results of cells, without files; by JSON and back, as a file would have their arguments."""
    results = []
    for cell in cells:
        module, _, name = cell.function.partition(":")
        arguments = json.loads(json.dumps(dict(cell.arguments) | changes))
        results.append(
            getattr(importlib.import_module(module), name)(arguments, Path(), Path(), lambda *_: None)
        )
    return results


def blank(cell):
    """What a cell of the convergence experiment could have found: its streams are long."""
    seeds, contexts = (len(cell.arguments[name]) for name in ("seeds", "contexts"))
    return {"errors": torch.rand(seeds, contexts)}, {"chosen": [0] * contexts}


def measured(name):
    run = (lambda cells: list(map(blank, cells))) if name == "convergence" else compute
    return FOUND[name].measure("smoke", run)


# ------------------------------------------------------------------------------------------------ experiments
@pytest.mark.parametrize("name", FOUND)
def test_bands_speak_of_figures_and_pictures_are_drawn(name):
    experiment, found = FOUND[name], measured(name)
    figures = experiment.figures(json.loads(json.dumps(found)))
    for band in experiment.bands:
        assert {band.figure, band.over or band.figure} <= set(figures)
        assert band.low > -math.inf or band.high < math.inf
    if isinstance(experiment, identities.IdentityExperiment):  # identities hold at every size
        assert all(verdict["met"] for verdict in verdicts(experiment, figures, "smoke"))
    assert png(experiment.draw(found)).startswith(b"\x89PNG")
    assert experiment.bands and set(experiment.seeds) == set(experiment.judged_at) == set(SCALES)
    (first, count), *judged = (experiment.seeds[scale] for scale in SCALES)
    assert all(first + count <= start and start + many <= TUNING_SEED for start, many in judged)


@pytest.mark.parametrize("name", FOUND)
def test_no_band_is_met_by_a_figure_that_is_not_a_number(name):
    experiment = FOUND[name]
    figures = dict.fromkeys(experiment.figures(measured(name)), [math.nan])
    assert not any(verdict["met"] for verdict in verdicts(experiment, figures, "laptop"))


# ---------------------------------------------------------------------------------------------------- streams
def test_noise_of_a_linear_map_changes_nothing_else():
    """Drawn last: the keys, the maps and every older stream stay as they were, to the bit."""
    plain, noisy = (linear_map(2, 300, 3, seed=4, segment=12, spread=1.0, noise=n) for n in (0.0, 0.1))
    assert torch.equal(plain.keys, noisy.keys) and torch.equal(plain.values, noisy.truth)
    assert 0.08 < (noisy.values - noisy.truth).std() < 0.12


def test_a_cap_has_unit_keys_up_to_its_radius():
    keys = smooth_map(1, 5000, 3, seed=0, radius=0.8).keys[0].double()
    distance = keys[:, 1:].norm(dim=-1)
    assert error(keys.norm(dim=-1), torch.ones(5000)) < FLOAT32
    assert distance.max() <= 0.8 + FLOAT32 and keys[:, 0].min() >= 0.6 - FLOAT32
    assert (distance < 0.8 / 2**0.5).double().mean() == pytest.approx(0.5, abs=0.03)  # uniform in a disc


# ---------------------------------------------------------------------------------------------- boundary bias
def test_bias_and_error_are_those_of_a_smoother_by_hand():
    """Two streams of five tokens, of which the last two are asked at the ends, from the pairs up to them."""
    settings = {"half_angle": 1.0, "noise": 0.1, "streams": 2}
    arguments = {"options": [softmax(3.0).to_dict()], "length": 5, "angles": 2, "settings": settings}
    tensors, facts = boundary.by_angle(arguments | {"seeds": [5]}, Path(), Path(), lambda *_: None)
    assert facts["angles"] == [-1.0, 1.0]
    stream = arc(length=5, seed=5, **settings)
    for i, (angle, read) in enumerate(((-1.0, 4), (1.0, 5))):
        keys, values = stream.keys[:, :read], stream.values[:, :read]
        kernel = (3.0 * (math.cos(angle) * keys[..., 0] + math.sin(angle) * keys[..., 1])).exp()[..., None]
        off = (kernel * values).sum(1) / kernel.sum(1) - torch.tensor([angle, angle**2])
        error_by_hand, bias_by_hand = off.square().sum(-1).mean(), off.mean(0).square().sum()
        assert tensors["error"][0, 0, i].item() == pytest.approx(error_by_hand.item(), rel=FLOAT32)
        assert tensors["bias"][0, 0, i].item() == pytest.approx(bias_by_hand.item(), rel=FLOAT32)


def test_figures_of_ends_and_middle():
    """The middle third of six angles is two; a squared bias that grows with h^3 has the power 1.5."""
    by_angle = [[1.0], [9.0], [2.0], [4.0], [9.0], [3.0]]
    order = {"angles": [], "bandwidths": [1.0, 2.0], "ends": [[1.0], [8.0]]}
    found = FOUND["boundary-bias"].figures(
        {"a": order | {name: by_angle for name in (boundary.BIAS, boundary.ERROR)}}
    )
    assert found["a, squared bias, ends"] == [2.0] and found["a, mean squared error, middle"] == [3.0]
    assert found["a, power of the bandwidth"] == [pytest.approx(1.5)]


def test_the_bias_of_first_order_is_that_of_a_dense_arc():
    """The smoother's integral over one side, by a sum over angles that are 1e-5 apart."""
    half, scale = 1.0, 4096.0
    below = torch.arange(0, 0.5, 1e-5, dtype=torch.float64)
    kernel = (scale * (below.cos() - 1)).exp()
    off = torch.stack([-below, (half - below).square() - half**2])
    bias = ((kernel * off).sum(-1) / kernel.sum()).square().sum().item()
    assert boundary.first_order_bias(half, scale**-0.5) == pytest.approx(bias, rel=0.03)


def test_the_claim_about_the_boundary_fails_where_order_1_is_order_0():
    experiment = FOUND["boundary-bias"]
    constant, line, square = experiment.orders
    orders = experiment.orders | {line: experiment.orders[constant]}
    same = dataclasses.replace(experiment, orders={**orders, square: orders[constant]})
    failed = [
        v["band"]
        for v in verdicts(same, same.figures(same.measure("smoke", compute)), "smoke")
        if not v["met"]
    ]
    assert len(failed) >= 4 and f"{constant}, squared bias, ends / {line}, squared bias" in failed[0]


# ------------------------------------------------------------------------------------------------ convergence
def test_a_slope_is_that_of_the_power():
    contexts = [10, 100, 1000]
    assert convergence.slope(contexts, [n**-0.7 for n in contexts]) == pytest.approx(-0.7)
    assert convergence.theoretical((3, 3), 3) == pytest.approx(-3 / 5)
    assert convergence.theoretical((4, 4), 2) == pytest.approx(-4 / 5)


def test_errors_by_context_are_means_of_the_tokens_that_have_read_so_many(monkeypatch):
    """By hand: token i, counted from 0, has read i pairs; of 4 contexts those that have read 2 to 4."""
    stream = linear_map(2, 9, 3, seed=1, noise=0.5)
    monkeypatch.setitem(STREAMS, "linear-map", lambda seed: stream)
    option = least_squares(0.1)
    arguments = {"stream": "linear-map", "settings": {}, "options": [option.to_dict()], "seeds": [1]}
    found = compute_errors(arguments | {"contexts": [4]})[0]["errors"].item()
    keys, values, truth = (x.double() for x in stream)
    off = []
    for i in (2, 3, 4):
        gram = keys[:, :i].mT @ keys[:, :i] + 0.1 * torch.eye(3).double()
        read = torch.linalg.solve(gram, keys[:, :i].mT @ values[:, :i]).mT @ keys[:, i, :, None]
        off.append((read[..., 0] - truth[:, i]).square().sum(-1).mean())
    expected = torch.stack(off).mean() / truth.flatten(0, 1).var(0).sum()
    assert found == pytest.approx(expected.item(), rel=FLOAT64)


def compute_errors(arguments):
    return convergence.errors_by_context(arguments, Path(), Path(), lambda *_: None)


def test_each_context_has_the_option_that_is_best_there_on_other_streams(monkeypatch):
    """A wide kernel while there are few pairs, a narrow one later."""
    seeds, draw = [], smooth_map
    monkeypatch.setitem(STREAMS, "smooth-map", lambda seed, **s: seeds.append(seed) or draw(seed=seed, **s))
    options = [softmax(scale) for scale in (16.0, 512.0)]
    arguments = {
        "stream": "smooth-map",
        "settings": {"streams": 4, "length": 1024, "size": 2, "radius": 0.8, "noise": 0.3},
        "options": [option.to_dict() for option in options],
        "contexts": [8, 1024],
        "seeds": [3, 4],
    }
    tensors, facts = compute_errors(arguments)
    assert seeds == [TUNING_SEED, 3, 4] and facts["chosen"] == [0, 1]
    assert tensors["errors"].shape == (2, 2) and (tensors["errors"].diff(dim=1) < 0).all()


def test_slopes_are_fitted_from_their_context_on():
    experiment = dataclasses.replace(FOUND["convergence"], contexts=(1, 10, 100), fitted_from=10)
    errors = {"errors": {"1": [9.0], "10": [1.0], "100": [0.01]}}
    assert experiment.figures({"a": {"b": errors}})["a, b, slope"] == [pytest.approx(-2.0)]


# ------------------------------------------------------------------------------------------------- identities
def test_layers_are_connected_by_changing_one_choice():
    """From linear attention every layer is reached by steps to layers that differ in one of three choices."""
    reached, ahead = set(), ["linear attention"]
    while ahead:
        here = ahead.pop()
        reached.add(here)
        for name, layer in LAYERS.items():
            changed = sum(a != b for a, b in zip(layer.choices, LAYERS[here].choices, strict=True))
            if changed == 1 and name not in reached:
                ahead.append(name)
    assert reached == set(LAYERS)
    problems = [(layer.problem, *layer.inputs.items()) for layer in LAYERS.values()]
    assert len(set(problems)) == len(problems)


def test_a_recurrence_by_hand():
    """Two tokens of the delta rule: S_1 = b_1 k_1 v_1^T, S_2 = S_1 + b_2 k_2 (v_2 - S_1^T k_2)^T."""
    call = {
        "q": torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]),
        "k": torch.tensor([[[1.0, 0.0], [0.6, 0.8]]]),
        "v": torch.tensor([[[2.0], [1.0]]]),
        "step_size": torch.tensor([[0.5, 0.25]]),
    }
    first, second = published.deltanet(call)[0, :, 0].tolist()
    assert first == pytest.approx(1.0)
    assert second == pytest.approx(1.0 + 0.25 * (0.6 + 0.8) * (1.0 - 0.6))


FAULTS = {
    "linear attention": ("softmax attention", {}),
    "MesaNet": ("mesa layer, intention", {}),
    "Gated DeltaNet": ("DeltaNet", {}),
    "Longhorn": ("DeltaNet", {}),
    "TTT-Linear": ("DeltaNet", {}),
    "unnormalised softmax": ("kernelised intention", {}),
    "RetNet": ("RetNet", {"log_decay": "fixed_decay"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_layer_with_another_choice_is_another_layer(name):
    """The measure sees a wrong problem, or a wrong gate, by far more than the band."""
    other, inputs = FAULTS[name]
    wrong = dataclasses.replace(
        LAYERS[name], problem=LAYERS[other].problem, inputs=dict(LAYERS[other].inputs) | inputs
    )
    experiment = dataclasses.replace(
        FOUND["design-space"], layers={name: wrong}, bands=[Band(name, high=1e-10)]
    )
    (value,) = experiment.figures(experiment.measure("smoke", compute))[name]
    assert value > FLOAT32 and not experiment.bands[0].met({name: [value]})


def test_differences_are_relative_to_the_largest_number(monkeypatch):
    call = {"q": torch.ones(1, 2, 1), "k": torch.ones(1, 2, 1), "v": torch.tensor([[[1.0], [3.0]]])}
    monkeypatch.setattr(identities, "draw_call", lambda seed: {n: x.double() for n, x in call.items()})
    monkeypatch.setattr(published, "retention", lambda call: torch.tensor([[[1.0], [5.0]]]).double())
    layer = LAYERS["linear attention"]
    arguments = {"problem": layer.problem.to_dict(), "published": "retention", "inputs": {}, "sizes": {}}
    arguments |= {"seeds": [0]}
    found = identities.differences(arguments, Path(), Path(), lambda *_: None)[0]["difference"]
    assert found.tolist() == [[0.0, pytest.approx(1 / 5)]]


def test_recursive_least_squares_by_hand():
    """One channel: P_1 = 1 / (ridge + k^2), and after decay a P_2 = 1 / (a (ridge + k_1^2) + k_2^2)."""
    call = {
        "q": torch.ones(1, 2, 1),
        "k": torch.tensor([[[2.0], [3.0]]]),
        "v": torch.tensor([[[1.0], [5.0]]]),
        "ridge": torch.tensor(0.5),
        "fixed_decay": torch.full((1, 2), 0.8).log(),
    }
    call = {name: x.double() for name, x in call.items()}
    decayed, plain = (
        recurrence(call)[0, :, 0].tolist()
        for recurrence in (published.recursive_least_squares, published.undecayed_least_squares)
    )
    assert plain == pytest.approx([2 / 4.5, 17 / 13.5])
    assert decayed == pytest.approx([2 / (0.8 * 0.5 + 4), (0.8 * 2 + 15) / (0.64 * 0.5 + 0.8 * 4 + 9)])
    assert published.preconditioned_delta_rule(call)[0, :, 0].tolist() == pytest.approx(plain)
    assert published.preconditioned_linear_attention(call)[0, :, 0].tolist() == pytest.approx(plain)


def test_a_frozen_preconditioner_is_told_from_recursive_least_squares():
    """Were the delta rule exact, or a recurrence not, a band would fail."""
    experiment = FOUND["least-squares-recurrence"]
    names = list(experiment.layers)
    layers = experiment.layers
    swapped = dict(layers) | {names[0]: layers[FROZEN], FROZEN: layers[names[0]]}
    wrong = dataclasses.replace(experiment, layers=swapped)
    found = verdicts(wrong, wrong.figures(wrong.measure("smoke", compute)), "smoke")
    failed = {v["band"].partition(":")[0] for v in found if not v["met"]}
    assert failed == {names[0], FROZEN.partition(":")[0]}


def test_curvature_by_hand(monkeypatch):
    """Keys e_1, e_2: with a = -1/2 the second moment is diag(-1/2, 1), and with the ridge 0.2 its smallest
    eigenvalue -0.3."""
    call = {"k": torch.eye(2, dtype=torch.float64)[None], "ridge": torch.tensor(0.2, dtype=torch.float64)}
    monkeypatch.setattr(recursive, "draw_call", lambda seed: call)
    arguments = {"decays": [0.5, -0.5], "sizes": {}, "seeds": [0]}
    found = recursive.curvatures(arguments, Path(), Path(), lambda *_: None)[0]["smallest"]
    assert found[0, 0].tolist() == pytest.approx([0.2, 0.7])
    assert found[1, 0].tolist() == pytest.approx([0.2, -0.3])


# --------------------------------------------------------------------------------------------------- solvers
def test_conjugate_gradient_takes_as_many_steps_as_there_are_eigenvalues():
    matrix = torch.diag_embed(torch.tensor([[1.0, 1.0, 4.0, 9.0]], dtype=torch.float64))
    right = torch.ones(1, 4, dtype=torch.float64)
    found, condition = solving.iterate(ConjugateGradient(damping=1e-30), matrix, right, 1.0, 3)
    assert condition.item() == pytest.approx(5.0)
    assert found[0].item() == 1.0 and found[2].item() > FLOAT32 and found[3].item() < FLOAT64
    # one step by hand: x = b (b.b) / (b.A b) = b 4 / 19 with A = diag(2, 2, 5, 10)
    residual = 1 - torch.tensor([2.0, 2.0, 5.0, 10.0]) * 4 / 19
    assert found[1].item() == pytest.approx((residual.norm() / 2).item())


def test_chebyshev_iteration_is_measured_against_its_own_ridge():
    """After many steps it solves the system with the ridge ratio ||H||_F, of condition below 11."""
    keys = linear_map(2, 65, 8, seed=0).keys.double()
    matrix, right = solving.global_systems(keys, 1.0)
    found, condition = solving.iterate(Chebyshev(ratio=0.1), matrix, right, None, 80)
    assert found[-1].max() < FLOAT64 < found[20].max() and condition.max() < 11
    x = torch.linalg.solve(
        matrix + 0.1 * matrix.norm(dim=(-2, -1))[:, None, None] * torch.eye(8).double(), right
    )
    last = Chebyshev(iterations=80, ratio=0.1).iterate(
        lambda x: (matrix @ x[..., None])[..., 0], matrix.square().sum((-2, -1)), right
    )
    assert error(last, x) < FLOAT64


def test_local_systems_are_those_of_local_linear_attention():
    """y = vbar - Cov_p(v, k) x with x from the system is what the library reads out."""
    stream = linear_map(2, 12, 3, seed=2)
    keys, values = stream.keys.double(), stream.values.double()
    matrix, right = solving.local_systems(keys, 5.0)
    x = torch.linalg.solve(matrix + 0.1 * torch.eye(3).double(), right).unflatten(0, (2, 11))
    for t in (0, 4, 10):
        before = keys[:, : t + 1]
        p = torch.softmax(5.0 * (before @ keys[:, t + 1, :, None])[..., 0], dim=-1)[..., None]
        mean = (p * before).sum(1)
        share = p[..., 0] * (1 - ((before - mean[:, None]) * x[:, t, None]).sum(-1))
        read = (share[..., None] * values[:, : t + 1]).sum(1)
        assert error(local_linear(5.0, 0.1).read(keys, values)[:, t], read) < FLOAT64


def test_iterations_are_counted_to_the_first_that_reaches_the_residual(monkeypatch):
    """Three systems whose residuals are given; the median system reaches 1e-2 at its second iteration."""
    curves = torch.tensor([[1.0, 1e-1, 1e-3], [1.0, 1e-3, 1e-1], [1.0, 0.5, 0.4]]).T
    monkeypatch.setattr(solving, "iterate", lambda *_: (curves, torch.tensor([1.0, 2.0, 3.0])))
    arguments = {
        "systems": "global",
        "stream": "linear-map",
        "settings": {"streams": 3, "length": 5, "size": 2},
        "solver": ConjugateGradient().to_dict(),
        "ridge": 1.0,
        "scale": 1.0,
        "iterations": 2,
        "residuals": [1e-2],
        "seeds": [0],
    }
    tensors, facts = solving.residuals(arguments, Path(), Path(), lambda *_: None)
    assert facts["iterations"] == [[2.0]] and facts["condition"] == [2.0]
    assert tensors["residual"][0].tolist() == pytest.approx([1.0, 0.1, 0.1])


def test_a_solver_that_does_not_adapt_misses_the_bands():
    """With Chebyshev iteration in the place of conjugate gradient on correlated keys, and keys alike."""
    experiment = dataclasses.replace(SOLVERS, sweep={}, streams=dict.fromkeys(SCALES, 1))
    names = list(experiment.curves)
    curves = {name: experiment.curves[names[2]] for name in names[:4]}
    wrong = dataclasses.replace(experiment, curves=curves, bands=experiment.bands[:4])
    found = verdicts(wrong, wrong.figures(wrong.measure("smoke", compute)), "smoke")
    assert [v["met"] for v in found] == [False, True, False, False]


def test_calls_have_gates_in_their_range():
    call = identities.draw_call(0, **DESIGN_SPACE.sizes)
    norms = call["k"].norm(dim=-1)
    assert norms.min() >= 0.5 and norms.max() <= 1.2 and call["log_decay"].max() <= 0
    assert call["pair_keys"].shape == (2, 64, 2, 8)
    assert not torch.equal(call["k"], identities.draw_call(1, **DESIGN_SPACE.sizes)["k"])
    y = identities.regress(LAYERS["Titans"].problem, call, LAYERS["Titans"].inputs)
    assert y.shape == call["v"].shape
