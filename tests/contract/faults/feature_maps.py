"""Faults in feature maps, normalised read-outs and decays that depend on the layer."""

from __future__ import annotations

from .fault import Fault

RATIO = ("recurrent", "weights=Uniform()", "absolute=True")

FAULTS: tuple[Fault, ...] = (
    Fault(
        "functions/linear.py",
        "(denominator + self.eps * unit)",
        "(denominator - self.eps * unit)",
        ("nothing",),
    ),
    Fault(
        "functions/linear.py",
        "denominator.abs() if self.absolute else denominator",
        "denominator",
        ("nothing",),
    ),
    Fault("functions/linear.py", ".clamp(min=self.floor * unit)", "", ("nothing",)),
    Fault(
        "functions/linear.py",
        'self.features(k, self.of_side("key", params))',
        'self.features(k, self._of("query", params))',
        ("nothing",),
    ),
    Fault("axes.py", "y[..., -1:], form.unit)", "y[..., -1:].detach(), form.unit)", RATIO),
    Fault(
        "engines/torch/steps/pairs.py",
        "problem.function.ratio(y, scores.sum(-1, keepdim=True))",
        "problem.function.ratio(y, weights.sum(-1, keepdim=True))",
        ("recurrent", "weights=Window", "absolute=True"),
    ),
    Fault(
        "functions/features/positive_random.py",
        "x = x / x.shape[-1] ** 0.25",
        "x = x / x.shape[-1] ** 0.5",
        ("nothing",),
    ),
    Fault(
        "functions/features/positive_random.py",
        "x.square().sum(-1, keepdim=True) / 2",
        "x.square().sum(-1, keepdim=True)",
        ("nothing",),
    ),
    Fault("functions/features/positive_random.py", ".clamp(max=LARGEST)", "", ("nothing",)),
    Fault(
        "functions/features/random_fourier.py",
        "torch.cat([angle.sin(), angle.cos()], dim=-1)",
        "torch.cat([angle.sin(), angle.sin()], dim=-1)",
        ("nothing",),
    ),
    Fault("functions/features/random_fourier.py", 'unit * params["sigma"]', "unit", ("nothing",)),
    Fault(
        "functions/features/random_fourier.py", "keepdim=True) + self.eps)", "keepdim=True))", ("nothing",)
    ),
    Fault(
        "functions/features/hedgehog.py",
        "torch.cat([2 * z, -2 * z], dim=-1).softmax(-1)",
        "torch.cat([z.softmax(-1), (-z).softmax(-1)], dim=-1)",
        ("nothing",),
    ),
    Fault("functions/features/hedgehog.py", '"...hk,hjk->...hj"', '"...hk,hkj->...hj"', ("nothing",)),
    Fault(
        "functions/features/rebased.py",
        "SymmetricPower(2)(self._normed",
        "2 * SymmetricPower(2)(self._normed",
        ("nothing",),
    ),
    Fault(
        "functions/features/rebased.py",
        'params["gain"], params["bias"], self.eps',
        'params["gain"], params["bias"]',
        ("nothing",),
    ),
    Fault("functions/features/dijiang.py", "x @ (transform *", "x @ (transform.mT *", ("nothing",)),
    Fault("functions/features/dijiang.py", "transform[:1] / 2**0.5", "transform[:1]", ("nothing",)),
    Fault("functions/features/symmetric_power.py", ".sqrt() / size", " / size", ("nothing",)),
    Fault(
        "functions/features/symmetric_power.py",
        "range(factors[-1], size)",
        "range(factors[-1] + 1, size)",
        ("nothing",),
    ),
    Fault(
        "functions/features/symmetric_power.py",
        "size ** (self.degree / 4)",
        "size ** (self.degree / 2)",
        ("nothing",),
    ),
    Fault("weights/layerwise_decay.py", "(layers - 1 + 1e-5) + 1e-5", "(layers + 1e-5) + 1e-5", ("nothing",)),
    Fault(
        "weights/layerwise_decay.py",
        "-self.exponent * (h + 1) / total",
        "-self.exponent * h / total",
        ("nothing",),
    ),
    Fault("weights/multi_scale.py", "/ max(total - 1, 1)", "/ max(total, 1)", ("nothing",)),
)
