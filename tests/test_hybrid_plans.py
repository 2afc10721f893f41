"""Planned steps of decoding of accelerated models."""

import pytest
import torch

pytest.importorskip("transformers")

from torch import nn

from tests.hybrids import cache_of, ids
from ttr.experiments.bench.hybrids import TINY, build
from ttr.integrations.transformers import accelerate, acceleration, restore
from ttr.laws.tolerances import FLOAT32, FLOAT32_OUTPUTS, HALF, error


def planned(layers):
    planners = (acceleration._planners[layer] for layer in layers)
    return [plan for planner in planners for plan in planner.plans.values() if plan is not None]


class TestPlans:
    """A planned step is given up when its layer is no longer the one recorded."""

    @pytest.fixture
    def model(self):
        model = accelerate(build("qwen3-next", TINY))
        yield model
        restore(model)

    @torch.no_grad()
    def decoded(self, model):
        cache = cache_of(model(ids()[:, :30], use_cache=True))
        for t in range(30, 33):
            logits = model(ids()[:, t : t + 1], use_cache=True, **cache).logits
        return logits

    def agrees(self, model):
        found = self.decoded(model)
        expected = self.decoded(restore(model))
        accelerate(model)
        return error(expected, found) < FLOAT32_OUTPUTS

    def test_changed_weights(self, model):
        before = self.decoded(model)
        mixer = model.model.layers[0].linear_attn
        mixer.out_proj.weight.data.mul_(2)
        mixer.in_proj_ba.weight = nn.Parameter(torch.randn_like(mixer.in_proj_ba.weight))
        assert error(before, self.decoded(model)) > FLOAT32
        assert self.agrees(model)
        self.decoded(model)
        mixer.in_proj_qkvz.weight = nn.Parameter(mixer.in_proj_qkvz.weight.T.contiguous().T)
        assert self.agrees(model)

    def test_a_hook(self, model):
        seen = []
        self.decoded(model)
        handle = model.model.layers[0].linear_attn.norm.register_forward_hook(lambda *args: seen.append(args))
        self.decoded(model)
        assert len(seen) == 4  # the prompt, and every token
        handle.remove()
        assert self.agrees(model)

    def test_a_replaced_module(self, model):
        self.decoded(model)
        layer = model.model.layers[0].linear_attn

        class Switched(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner, self.factor = inner, 2.0

            def forward(self, x):
                return self.inner(x) * self.factor

        layer.out_proj = Switched(layer.out_proj).eval()
        before = self.decoded(model)
        layer.out_proj.factor = 300.0
        assert error(before, self.decoded(model)) > FLOAT32
        assert self.agrees(model)

    def test_a_tensor_that_a_module_holds(self, model):
        """Neither a parameter nor a buffer, it can be set anew at every token, as a state is."""
        norm = model.model.layers[0].linear_attn.norm
        norm.variance_epsilon = torch.tensor(1e-6)
        self.decoded(model)
        norm.variance_epsilon = torch.tensor(1.0)
        assert self.agrees(model)

    def test_a_tensor_at_two_places(self, model):
        norm, other = (
            getattr(model.model.layers[0], f"{at}_layernorm") for at in ("input", "post_attention")
        )
        other.weight = norm.weight
        self.decoded(model)
        other.weight = nn.Parameter(torch.randn_like(norm.weight))
        assert self.agrees(model)

    def test_another_dtype(self, model):
        self.decoded(model)
        model.bfloat16()
        found = self.decoded(model)
        assert found.dtype == torch.bfloat16
        assert error(self.decoded(restore(model)), found) < HALF

    def test_a_cache_that_is_not_the_copy(self, model):
        """Two caches, decoded in turn."""
        with torch.no_grad():
            caches = [cache_of(model(ids()[row : row + 1, :30], use_cache=True)) for row in (0, 1)]
            found = [model(ids()[:1, 30:31], use_cache=True, **cache).logits for cache in caches * 2]
        assert error(found[0], found[1]) > FLOAT32
        assert self.agrees(model)

    @torch.no_grad()
    def test_a_prompt_of_one_token(self, model):
        """Without states to continue from, its layers are not planned; the next token's are."""
        first = model(ids()[:, :1], use_cache=True)
        assert not planned(acceleration._layers(model)[:1])
        model(ids()[:, 1:2], use_cache=True, **cache_of(first))
        assert len(planned(acceleration._layers(model)[:1])) == 1

    def test_inference_mode(self, model):
        expected = self.decoded(model)
        with torch.inference_mode():
            assert error(expected, self.decoded(model)) < FLOAT32_OUTPUTS
        assert error(expected, self.decoded(model)) < FLOAT32_OUTPUTS

    def test_gradients_are_not_planned(self, model):
        cache = cache_of(model(ids()[:, :30], use_cache=True))
        logits = model(ids()[:, 30:31], use_cache=True, **cache).logits
        assert logits.requires_grad and not planned(acceleration._layers(model))
