"""The three axes as abstract classes: what a weight, a function and a solver declare, define and refuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from ttr import registry
from ttr.component import Component
from ttr.forms import Landmarks, LinearRecurrence, Network, WeightedPairs
from ttr.forms.network import Perceptron, step_of
from ttr.inputs import Inputs


@dataclass(frozen=True)
class Pair:
    """One pair as it is learned, [B,H,...] each: the argument of definitions written as recurrences.

    ``key`` [B,H,F] has gone through the function, ``value`` is [B,H,V]; ``controls`` are those of this pair.
    ``log_decay`` [B,H] or [B,H,F] acts before the pair, None without a decay; ``log_importance`` [B,H], None
    without importances. ``position`` [B] is the number of the token, from 0.
    """

    key: Tensor
    value: Tensor
    controls: Mapping[str, Tensor]
    log_decay: Tensor | None
    log_importance: Tensor | None
    position: Tensor


class _Axis(Component):
    """The base class of the three axes.

    Declared structure:
        form: the form (a class of ttr.forms) that a memory with it is lowered to, None if it needs none in
            particular.
        folds: the memory is defined, pair by pair, by ``learn`` and ``read`` of this class: a published
            recurrence which is the minimiser or the gradient of no objective. Only the oracle calls them.
    """

    form: ClassVar[type | None] = None
    folds: ClassVar[bool] = False

    def state(
        self, feature_size: int, value_size: int, memory: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[int, ...]]:
        """What it adds to the state: name -> shape behind batch and heads; ``memory`` are the shapes of the
        function's parameters."""
        return {}

    def lower(self, form: LinearRecurrence, function: Function, x: Inputs) -> LinearRecurrence:
        """The linear recurrence as changed by this component; the function is applied first, then the solver,
        then the weights."""
        return form

    def formulas(self) -> dict[str, str]:
        """What it does, as formulas for ``ttr.explain``: title -> one line such as "S_t = a_t S_{t-1} + k_t
        v_t^T".

        Titles: weights give "weight" (and "decay", "order" where they differ from the rule); functions
        "prediction", "read-out", "scale" and, where they have them, "features", "kernel" and "normalisation";
        solvers "objective" (unless they fold), "update", "order" and "parallel form"; a component that is
        only approximately a regression says so under "approximation". D_t is the decay at token t and w_t the
        importance of its pair. ``ttr.latex`` says how formulas are written."""
        return {}

    def sizes(self) -> dict[str, int]:
        """Sizes of the axes of its controls that no other tensor of a call has: letter -> size, such as "L"
        for levels or "P" for groups of parameters with a step of their own."""
        return {}

    def limits(self) -> dict[str, float]:
        """Bounds of meaningful random calls, for tests and benchmarks: "value_size", the channels of values
        below which it degenerates; "step_size", the step above which it may diverge on keys of unit scale;
        and "condition", the factor by which it may amplify rounding errors."""
        return {}

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        """Why it cannot be part of that triple, as a sentence that names the remedy; None if it can."""
        return None

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        """The state's tensors after one pair; ``params`` are all of the call's, by "axis.name"."""
        raise NotImplementedError(
            f"{type(self).__name__} folds, so it needs learn(): write the published recurrence in its file"
        )

    def read(
        self,
        function: Function,
        params: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        query: Tensor,
        pair: Pair,
    ) -> Tensor:
        """The read-out [B,H,V] at ``query`` [B,H,F] of a token whose last pair was ``pair``; the state before
        and after it."""
        raise NotImplementedError(
            f"{type(self).__name__} folds, so it needs read(): write the published read-out in its file"
        )


class Weights(_Axis):
    """The weight of pair i at token t: log gamma_i^(t) = sum_{i<j<=t} log_retention_j + log_importance_i.

    Declared structure, all that an engine may depend on:
        retention: "head" for one decay per head, "channel" for one per key channel, None without a decay.
        window: number of newest pairs that count, the token's own included; None for all of them.
        importance: whether each pair carries a weight of its own.
        horizon: number of tokens for which the weights are defined; calls that go beyond it are refused.
    """

    kind: ClassVar[str] = "weights"
    retention: ClassVar[Literal["head", "channel"] | None] = None
    window: ClassVar[int | None] = None
    importance: ClassVar[bool] = False
    horizon: ClassVar[int | None] = None

    def __mul__(self, other: Weights) -> Weights:
        """The product: the logarithms of the weights add, the narrower window holds."""
        if not isinstance(other, Weights):
            return NotImplemented
        factors = [factor for each in (self, other) for factor in getattr(each, "factors", (each,))]
        return registry.find("weights", "Product")(tuple(factors))

    @property
    def form(self) -> type | None:
        return None if self.window is None else WeightedPairs

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor | None:
        """Log decay at each token, <= 0; broadcasts to [B,T,H] or [B,T,H,K]. From ``RESET`` down it counts as
        -inf, and has no gradient.

        None without a decay. ``params`` are those that ``parameters`` declares; ``like`` gives dtype and
        device."""
        return None

    def rates(self, params: Mapping[str, Tensor]) -> Tensor | None:
        """Positive factors [H,K] of every key channel, by which the log decay, then [B,T,H], is multiplied;
        None without such factors.

        The product [B,T,H,K] is formed only for the tokens being computed."""
        return None

    def phase(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], like: Tensor
    ) -> Tensor | None:
        """The angle by which the memory rotates at each token, if the decay is complex, exp(log_retention + i
        phase); broadcasts to [B,T,H], or [B,T,H,K] with a decay per key channel. None if the decay is
        real."""
        return None

    def log_importance(self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Tensor | None:
        """Log weight of each pair, [B,T,H] or [B,T,n,H]; None without importances."""
        return None

    def importance_factor(self, x: Inputs) -> Tensor | None:
        """What multiplies the step of every pair of a linear memory, [B,T,H] or [B,T,n,H]; None if nothing
        does, or if ``lower`` applies it."""
        return None if x.log_importance is None else x.log_importance.exp()


class Function(_Axis):
    """What the memory can represent.

    ``query`` and ``key`` give the vectors of which dot products are taken, scale included; no other code
    applies a scale.

    Declared structure:
        local_degree: None for a global map, else the degree of the polynomial fitted around each query.
        linear: whether the prediction is linear in the memory's parameters.
        normalized: whether the read-out is divided by that of the same memory with the value 1 (a ratio of
            two fits).
        keeps_channels: whether the key channels of the memory are those of the key, not mixed by features.
        causal: False if every token reads the whole sequence by ``whole``: then there is neither a state nor
            a single step.
    """

    kind: ClassVar[str] = "function"
    local_degree: ClassVar[int | None] = None
    linear: ClassVar[bool] = False
    normalized: ClassVar[bool] = False
    keeps_channels: ClassVar[bool] = False
    causal: ClassVar[bool] = True

    @property
    def learned_start(self) -> bool:
        """Whether the memory starts from parameters of the layer of the same names, instead of 0."""
        return bool(self.memory(1, 1).keys() & self.parameters(1, 1, 1).keys())

    @property
    def form(self) -> type | None:
        return None if self.local_degree is None else WeightedPairs

    def lower(self, form: LinearRecurrence, function: Function, x: Inputs) -> LinearRecurrence:
        """Queries and keys mapped by the function; for a normalised read-out the values get a column of ones,
        whose read-out is the divisor."""
        params, scale = x.axis_params("function"), self.plain_scale(form.query.shape[-1])
        query = self.query(form.query, params) if scale is None else form.query
        form = form._replace(
            query=query, key=self.key(form.key, params), scale=1.0 if scale is None else scale
        )
        if not self.normalized:
            return form
        memory = torch.cat([form.memory, x.state["normalizer"][..., None]], dim=-1)
        return form.then(self._divided, value=pad(form.value, (0, 1), value=1.0), memory=memory)

    def lower_pairs(self, form: WeightedPairs, x: Inputs) -> WeightedPairs:
        """The pairs with queries and keys mapped by the function, and their points for a local fit."""
        params, scale = x.axis_params("function"), self.plain_scale(form.query.shape[-1])
        key, value = form.key, form.value
        # with parameters, which are per head, the heads of a group no longer share their keys
        if params or key.shape[2] != value.shape[2]:
            key, value = x.grouped(key), x.grouped(value)
        return dataclasses.replace(
            form,
            query=self.query(form.query, params) if scale is None else form.query,
            key=self.key(key, params),
            value=value,
            scale=1.0 if scale is None else scale,
            query_point=self.point(form.query, params) if self.local_degree else None,
            key_point=self.point(key, params) if self.local_degree else None,
        )

    def lower_network(self, form: type[Network], x: Inputs) -> Network:
        """The network that learns the pairs of a call, of one of the two forms of networks."""
        params, value = x.axis_params("function"), x.grouped(x.v)
        query, key = self.query(x.grouped(x.q), params), self.key(x.grouped(x.k), params)
        names = tuple(self.memory(key.shape[-1], value.shape[-1]))
        return form(query, key, value, step_of(x), names, params)

    def lower_whole(self, x: Inputs) -> Landmarks:
        """For functions that are not causal: the whole sequence through landmarks."""
        raise NotImplementedError(f"{type(self).__name__} has no such form: write lower_whole() in its file")

    def _divided(
        self, form: LinearRecurrence, y: Tensor, tensors: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Read-outs divided by their last column; the last column of a memory becomes its normaliser."""
        y = self.ratio(y[..., :-1], y[..., -1:], form.unit)
        normalizers = {name.replace("memory", "normalizer"): x[..., -1] for name, x in tensors.items()}
        return y, {name: x[..., :-1] for name, x in tensors.items()} | normalizers

    def memory(self, feature_size: int, value_size: int) -> dict[str, tuple[int, ...]]:
        """The parameters theta of the regressor, stored in the state: name -> shape behind batch and
        heads."""
        return {"memory": (feature_size, value_size)} | (
            {"normalizer": (feature_size,)} if self.normalized else {}
        )

    def initial(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The initial values of those parameters, [H,...] by name; 0 for the ones not named."""
        return {}

    def predict(self, memory: Mapping[str, Tensor], key: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """m(k): the regressor with parameters ``memory`` at a key [B,H,F] -> [B,H,V]."""

        def affine(name: str, x: Tensor) -> Tensor:
            y = torch.einsum("...fv,...f->...v", memory[name], x)
            return y + memory[f"{name}_bias"] if f"{name}_bias" in memory else y

        return self.forward(affine, key, params)

    def forward(
        self, affine: Callable[[str, Tensor], Tensor], key: Tensor, params: Mapping[str, Tensor]
    ) -> Tensor:
        """m(k) written with the maps of the memory: ``affine(name, x)`` is x W + b for the matrix W of that
        name and its bias "name_bias", if there is one. All that the memory learns goes in through
        ``affine``."""
        return affine("memory", key)

    def inner(self) -> tuple[str, ...]:
        """Names of the parameters [H,V] that ``forward`` and ``slopes`` take, broadcast against the values'
        last two axes."""
        return ()

    def perceptron(self) -> Perceptron | None:
        """The description of ``forward`` for compiled kernels, if it is matrices with GELU between them; else
        None."""
        return None

    def slopes(
        self,
        back: Callable[[str, Tensor], Tensor],
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        slope: Tensor,
        params: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Derivatives of a loss in the outputs of every map of ``forward``, by name: ``slope`` is that in
        m(k), ``inputs`` and ``outputs`` are those of the maps, ``back(name, x)`` is x W^T. For engines: the
        definition differentiates ``predict``."""
        return {"memory": slope}

    def feature_size(self, key_size: int) -> int:
        """Number F of features, each with an entry of the ridge: the size of what ``query`` and ``key``
        return, or the number of monomials of a local fit; 1 for a dual function, in whose space only one
        ridge for all directions has a meaning."""
        return key_size

    @property
    def kernelised(self) -> bool:
        """Whether it is linear in features that are ``of_dot_product``."""
        return False

    def plain_scale(self, key_size: int) -> float | None:
        """The number s if ``key`` returns the key unchanged and ``query`` s times the query, so that a kernel
        can take both without a copy; else None."""
        return None

    def query(self, q: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """[..., H, K] -> [..., H, F]."""
        raise NotImplementedError

    def key(self, k: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """[..., H, K] -> [..., H, F]."""
        raise NotImplementedError

    def point(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """For local functions: the point of a query or key [..., H, K]; displacements of the fit are
        differences of points."""
        return x

    def kernel_matrix(self, left: Tensor, right: Tensor) -> Tensor:
        """For functions in the space of a kernel: kappa of every pair of rows, [..., N, K] and [..., M, K] ->
        [..., N, M]."""
        raise NotImplementedError

    def whole(self, query: Tensor, key: Tensor, value: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """The read-outs [B,T,H,V] of all tokens of a sequence at once, from ``query`` and ``key`` [B,T,H,F]:
        the published formula of a function that is not causal. Only the oracle calls it."""
        raise NotImplementedError(
            f"{type(self).__name__} is not causal, so it needs whole(): write the "
            "published formula in its file"
        )

    def ratio(self, numerator: Tensor, denominator: Tensor, unit: Tensor | float = 1.0) -> Tensor:
        """The normalised read-out: [..., V] of the values over [..., 1] of the same memory with the value 1;
        ``unit`` is the common factor by which both have been scaled."""
        raise NotImplementedError


class Solver(_Axis):
    """How the regression is solved.

    Declared structure:
        weights_act_on: "samples" if the weighted problem of all pairs is solved afresh for every token;
            "memory" if the memory is updated token by token, and decays before the pair is learned.
        additive: the memory is a sum of weighted outer products of keys and values, which decay by the
            weights alone or as the solver defines.
        exact: the regularised problem is solved exactly ("global" or "local").
        gradient_at: for a solver that acts on the memory, where the gradient of its objective is taken: at
            the "decayed" or the "old" memory, or at the "new" one, the minimiser of the objective about the
            decayed memory.
        pairs_per_token: how many pairs are learned, one after the other, per token.
    """

    kind: ClassVar[str] = "solver"
    weights_act_on: ClassVar[Literal["samples", "memory"]] = "samples"
    additive: ClassVar[bool] = False
    exact: ClassVar[Literal["global", "local"] | None] = None
    gradient_at: ClassVar[Literal["decayed", "old", "new"]] = "decayed"
    pairs_per_token: ClassVar[int] = 1

    def replaces(self) -> tuple[str, ...]:
        """The controls of weights and function that this solver does without."""
        return ()

    def iterate(self, product: Callable[[Tensor], Tensor], squared_norm: Tensor, right: Tensor) -> Tensor:
        """For solvers defined by iterations on the moments U and H: the vector [..., F] at which U is read,
        in place of the solution of H x = ``right``. ``product`` is that with H, or with H + diag(ridge) where
        the problem has a ridge; ``squared_norm`` [...] is ||H||_F^2. For engines: the definition is in
        ``read``."""
        raise NotImplementedError(f"{type(self).__name__} iterates, so it needs iterate(): write its steps")

    def polynomial(self) -> tuple[float, ...] | None:
        """For solvers whose iterations are one polynomial of H, whatever H and the right-hand side: the
        coefficients c of x = (2 / f) sum_k c_k T_k(1 - 2 H / f) right with f = ||H||_F and the Chebyshev
        polynomials T_k. None for all others."""
        return None

    def objective(
        self, predict: Callable[..., Tensor], memory: Tensor | Mapping[str, Tensor], *data: object
    ) -> Tensor:
        """What the solver minimises (samples) or descends once per pair (memory); see each solver for
        ``data``."""
        raise NotImplementedError
