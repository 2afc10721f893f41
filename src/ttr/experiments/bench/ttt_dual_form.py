"""A straightforward PyTorch transcription of the dual form published by the authors of TTT, our baseline.

After TttLinear and TttMLP of test-time-training/ttt-lm-pytorch (arXiv 2407.04620, appendix A): a loop over
mini-batches of a few products each, with ``ln_fused_l2_bwd`` for the gradient at the last output. Derivatives
come from autograd.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import gelu

EPS = 1e-6


def layer_norm(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return gain * (centred / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + EPS)) + shift


def layer_norm_l2_slope(x: Tensor, target: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """The derivative in x of half the squared error of the norm of x against the target."""
    size, deviation = x.shape[-1], torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + EPS)
    normed = (x - x.mean(-1, keepdim=True)) / deviation
    slope = (gain * normed + shift - target) * gain
    return (size * slope - slope.sum(-1, keepdim=True) - normed * (slope * normed).sum(-1, keepdim=True)) / (
        size * deviation
    )


def gelu_slope(x: Tensor) -> Tensor:
    tanh = torch.tanh(0.7978845608028654 * x * (1 + 0.044715 * x * x))
    return 0.5 * x * ((1 - tanh * tanh) * (0.7978845608028654 + 0.1070322244089544 * x * x)) + 0.5 * (
        1 + tanh
    )


def ttt(x: Mapping[str, Tensor], layers: int, chunk: int = 16) -> Tensor:
    """The read-out [B,T,H,D] of a TTT-Linear (1 layer) or TTT-MLP (2), with weights "w1" [H,D,O], "w1_bias"
    [H,O], and so on."""
    batch, _, heads, _ = x["q"].shape

    def mini_batches(tensor: Tensor) -> tuple[Tensor, ...]:
        return tensor.transpose(1, 2).contiguous().split(chunk, dim=2)

    gain, shift = x["gain"][:, None], x["shift"][:, None]
    weights = [x[f"w{layer + 1}"].expand(batch, *x[f"w{layer + 1}"].shape) for layer in range(layers)]
    biases = [x[f"w{layer + 1}_bias"][:, None].expand(batch, heads, 1, -1) for layer in range(layers)]
    outputs = []
    for q, k, v, step, read_step in zip(
        *(mini_batches(x[name]) for name in ("q", "k", "v", "step_size", "read_step"))
    ):
        rates = torch.tril(read_step[..., :, None] * step[..., None, :])
        inputs, raw = [k], []
        for layer in range(layers):
            if layer:
                inputs.append(gelu(raw[-1], approximate="tanh"))
            raw.append(inputs[-1] @ weights[layer] + biases[layer])
        slopes = [layer_norm_l2_slope(raw[-1], v - k, gain, shift)]
        for layer in reversed(range(1, layers)):
            slopes.insert(0, slopes[0] @ weights[layer].mT * gelu_slope(raw[layer - 1]))
        read = q
        for layer, (inner, slope) in enumerate(zip(inputs, slopes)):
            read = gelu(read, approximate="tanh") if layer else read
            attention = torch.tril(read @ inner.mT)
            read = read @ weights[layer] - (rates * attention) @ slope + (biases[layer] - rates @ slope)
        outputs.append(q + layer_norm(read, gain, shift))
        last = rates[..., -1, :, None]
        weights = [
            weight - (last * inner).mT @ slope for weight, inner, slope in zip(weights, inputs, slopes)
        ]
        biases = [bias - (last * slope).sum(-2, keepdim=True) for bias, slope in zip(biases, slopes)]
    return torch.cat(outputs, dim=2).transpose(1, 2)
