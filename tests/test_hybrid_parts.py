"""What is replaced around the rules of accelerated models: linear maps and gated norms."""

import functools
import importlib
import inspect
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

pytest.importorskip("transformers")

from torch import nn
from torch.autograd import forward_ad
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode

from ttr.integrations.transformers import accelerated, norms, products
from ttr.laws.tolerances import FLOAT32_OUTPUTS, error
from ttr.torch_internals import GROUPED_PRODUCTS, ONEDNN_LINEAR

needs_onednn = pytest.mark.skipif(ONEDNN_LINEAR is None, reason="this torch has no such product")
ROWS, COLUMNS = 2 * products.ROWS, products.COLUMNS + 16


@pytest.fixture
def served(monkeypatch):
    """How many products went through oneDNN."""
    calls, product = [], products._product
    monkeypatch.setattr(products, "_product", lambda *args: calls.append(args) or product(*args))
    return calls


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).requires_grad_()


@needs_onednn
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [(ROWS,), (2, ROWS // 2), (1, 1, ROWS)])
def test_a_linear_map_and_its_gradients(rows, biased, served):
    tensors = [drawn(*rows, 40), drawn(COLUMNS, 40), *[drawn(COLUMNS)] * biased]
    expected = linear(*tensors)
    with products.Products():
        found = linear(*tensors)
    assert error(expected, found) < FLOAT32_OUTPUTS
    direction = drawn(*expected.shape).detach()
    for loss in (lambda y: y.sum(), lambda y: (y * direction).sum()):  # the first has an expanded gradient
        pairs = zip(*(torch.autograd.grad(loss(y), tensors, retain_graph=True) for y in (expected, found)))
        assert max(error(a, b) for a, b in pairs) < FLOAT32_OUTPUTS
    assert len(served) == 1 + 2 * 2


@needs_onednn
def test_second_derivatives():
    tensors = [drawn(ROWS, 40), drawn(COLUMNS, 40)]

    def curvature():
        first = torch.autograd.grad(linear(*tensors).square().sum(), tensors, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), tensors)

    expected = curvature()
    with products.Products():
        found = curvature()
    assert max(map(error, expected, found)) < FLOAT32_OUTPUTS


@needs_onednn
def test_gradients_of_several_directions():
    """As of Jacobians, by either of torch's ways, and as tangents, which an operation could drop."""
    tensors, directions = [drawn(ROWS, 40), drawn(COLUMNS, 40)], drawn(3, ROWS, COLUMNS).detach()
    with products.Products():
        y = linear(*tensors)
    expected = [torch.autograd.grad(y, tensors, each, retain_graph=True) for each in directions]
    expected = list(map(torch.stack, zip(*expected)))
    gradients = functools.partial(torch.autograd.grad, y, tensors, retain_graph=True)
    for found in (gradients(directions, is_grads_batched=True), torch.vmap(gradients)(directions)):
        assert max(map(error, expected, found)) < FLOAT32_OUTPUTS
    with forward_ad.dual_level():
        found = map(forward_ad.unpack_dual, gradients(forward_ad.make_dual(*directions[:2])))
        tangents = [each.tangent for each in found]
    assert max(map(error, (each[1] for each in expected), tangents)) < FLOAT32_OUTPUTS


@needs_onednn
def test_what_a_product_keeps_for_its_gradients(served):
    """As in torch, nothing that only the gradient of a frozen tensor would need: it may be overwritten."""
    for learns in ([True, False], [False, True]):
        x, weight = tensors = [drawn(ROWS, 40).detach(), drawn(COLUMNS, 40).detach()]
        leaf = tensors[learns.index(True)].requires_grad_()
        frozen = tensors[learns.index(False)]
        product = leaf * 1  # what is no leaf may be overwritten, too
        with products.Products():
            y = linear(product, weight) if leaf is x else linear(x, product)
        expected = torch.autograd.grad(y.sum(), leaf, retain_graph=True)[0]
        product.detach().zero_()
        assert torch.equal(torch.autograd.grad(y.sum(), leaf, retain_graph=True)[0], expected)
        frozen.zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(y.sum(), leaf)
    assert served


@needs_onednn
@pytest.mark.skipif(GROUPED_PRODUCTS is None, reason="this torch has no grouped products")
def test_products_of_experts(served):
    """One without tokens, and tokens of none."""
    x, weights = drawn(3 * ROWS, 40), drawn(3, COLUMNS, 40)
    ends = torch.tensor([ROWS, ROWS, 2 * ROWS + 7], dtype=torch.int32)

    def with_gradients(y):
        return y, *torch.autograd.grad(y.square().sum(), [x, weights])

    # torch's own leaves rows and gradients that belong to no token as they were in memory
    expected = with_gradients(torch.cat([x[:ROWS] @ weights[0].T, x[ROWS : ends[-1]] @ weights[2].T]))
    with products.Products():
        y = torch.nn.functional.grouped_mm(x, weights.transpose(-2, -1), offs=ends)
        found = with_gradients(y[: ends[-1]])
    assert len(y) == len(x) and not y[ends[-1] :].any()
    assert max(map(error, expected, found)) < FLOAT32_OUTPUTS and served


@needs_onednn
def test_what_stays_torch_s_own(served):
    x, weight = drawn(ROWS, 40).detach(), drawn(COLUMNS, 40).detach()

    class Tagged(torch.Tensor):
        pass

    def maps():
        yield linear(x[: products.ROWS - 1], weight)
        yield linear(x, weight[: products.COLUMNS - 1])
        yield linear(x.double(), weight.double())
        yield linear(x.bfloat16(), weight.bfloat16())
        yield linear(x.as_subclass(Tagged), weight).as_subclass(torch.Tensor)
        yield torch.vmap(linear, (None, 0))(x, torch.stack([weight, weight]))
        yield linear(x, weight=weight)
        yield from (linear(x, weight, bias) for bias in (weight[:1, 0], weight[:, 0][None]))  # broadcast
        yield linear(x, weight.to_sparse())
        with torch.autocast("cpu"):
            yield linear(x, weight)

    expected = list(maps())
    with products.Products():
        found = list(maps())
    assert all(map(torch.equal, expected, found)) and not served
    for wrong in ((x, weight[:, 1:]), (x, weight, weight[1:, 0])):
        with products.Products(), pytest.raises(RuntimeError, match="shape|size"):
            linear(*wrong)


@needs_onednn
def test_nothing_is_replaced_where_onednn_is_not_faster_or_its_choice_would_show(monkeypatch, served):
    def serves():
        served.clear()
        with products.products(), torch.no_grad():
            linear(drawn(ROWS, 40), drawn(COLUMNS, 40))
        return bool(served)

    for faster in (False, True):
        monkeypatch.setattr(products, "faster", lambda faster=faster: faster)
        assert serves() == faster
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert not serves()
    finally:
        torch.use_deterministic_algorithms(before)
    monkeypatch.setattr(products, "faster", lambda: pytest.fail("timed, where a mode would see it"))
    with FlopCounterMode(display=False):
        products.products()


@needs_onednn
def test_threads_that_ask_at_once_measure_once(monkeypatch):
    multiplied, measured = [], products._measured
    monkeypatch.setattr(products, "_product", lambda x, weight: multiplied.append(time.sleep(0.01)))
    measured.cache_clear()
    try:
        with ThreadPoolExecutor(4) as threads:
            assert len(set(threads.map(lambda _: products.faster(), range(4)))) == 1
        assert len(multiplied) == 6
    finally:
        measured.cache_clear()


def gated_norms():
    qwen3 = importlib.import_module("transformers.models.qwen3_next.modeling_qwen3_next")
    mamba2 = importlib.import_module("transformers.models.mamba2.modeling_mamba2").MambaRMSNormGated
    falcon = importlib.import_module("transformers.models.falcon_h1.modeling_falcon_h1").FalconH1RMSNormGated
    kimi = importlib.import_module("transformers.models.kimi_linear.modeling_kimi_linear")
    yield qwen3.Qwen3NextRMSNormGated(24)
    yield kimi.KimiLinearRMSNormGated(24)
    yield from (mamba2(24, group_size=size) for size in (24, 8))
    yield from (
        falcon(24, n_groups=groups, norm_before_gate=after) for groups in (1, 3) for after in (False, True)
    )


def test_gated_norms():
    torch.manual_seed(0)
    x, gate = torch.randn(2, 2, 5, 24, requires_grad=True)
    for norm in gated_norms():
        nn.init.normal_(norm.weight)
        may_lack_gate = inspect.signature(norm.forward).parameters["gate"].default is None
        gates = [gate, *[None] * (may_lack_gate and not hasattr(norm, "activation"))]
        for given in gates:
            expected = norm(x, given)
            assert error(expected, norms.gated_norm(norm, x, given)) < FLOAT32_OUTPUTS, norm
        with accelerated():
            assert error(norm(x, gate), norms.gated_norm(norm, x, gate)) == 0
    norm.another_setting = 2
    assert norms.gated_norm(norm, x, gate) is NotImplemented
