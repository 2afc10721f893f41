"""The layer: project, regress, output. It runs on whole sequences, on segments with a state, on packed
sequences and on one token at a time."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttr import distributed
from ttr.dispatch import MemoryStep, check_engine, memory_step, regress
from ttr.distributed.heads import HeadShard
from ttr.engines.engine import Engine
from ttr.initial import initial_state
from ttr.layer import planned_step
from ttr.layer.architecture import Architecture
from ttr.layer.part import Streams
from ttr.layer.project import Project, projection
from ttr.layer.sequences import Sequences
from ttr.layer.sizes import Sizes
from ttr.layer.tensors import Tensors
from ttr.prepare import check_heads, check_packing, check_place, check_sizes
from ttr.problem import Problem
from ttr.state import State, check_fields, writable
from ttr.values import FLOATING, check_tensor


class Mixer(Project):
    """A causal sequence layer [B,T,d_model] -> [B,T,d_model] made of a memory and the parts around it.

    Args:
        memory: an Architecture, or a Problem, which gets default parts (``Architecture.of``).
        heads: number of query heads. ``key_heads`` and ``value_heads`` default to it. The memory has as many
            heads as the largest of the three, which each of them must divide: fewer keys and values than
            queries give grouped queries, more values than keys grouped values.
        key_size, value_size: channels per head, d_model / heads by default.
        layer, layers: index of the layer and their number, for memories and parts that depend on depth.
        engine: the engine that computes the memory, or "auto".

    Attributes:
        head_shard: the share of the heads that ``ttr.layer.heads.divide_heads`` has left to this process, of
            which ``sizes`` are then the sizes; None for all of them.

    Raises:
        ValueError: if sizes do not fit, or ``memory`` is a name instead of an object.
    """

    def __init__(
        self,
        d_model: int,
        memory: object,
        *,
        heads: int,
        key_size: int | None = None,
        value_size: int | None = None,
        key_heads: int | None = None,
        value_heads: int | None = None,
        layer: int = 0,
        layers: int = 1,
        engine: str | Engine = "auto",
    ) -> None:
        architecture = _architecture(memory)
        problem = architecture.problem.at_layer(layer, layers)
        all_heads = heads, *(heads if given is None else given for given in (key_heads, value_heads))
        sizes = _sizes(problem, d_model, all_heads, key_size, value_size, layer, layers)
        check_engine(engine)
        super().__init__(architecture, sizes)
        self.problem, self.engine = problem, engine
        self.head_shard: HeadShard | None = None
        self.memory = Tensors(problem.parameters(sizes.heads, sizes.key_size, sizes.value_size))
        self.output_parts = [(name.split(".")[1], part) for name, part in architecture.named("output")]
        self.output = nn.ModuleDict(
            {name: Tensors(part.parameters(sizes)) for name, part in self.output_parts}
        )
        self.o_proj = projection(sizes.heads * sizes.value_size, sizes.d_model)

    def forward(
        self,
        x: Float[Tensor, "B T d"],
        state: State | None = None,
        *,
        return_state: bool = False,
        cu_seqlens: Int[Tensor, " bounds"] | None = None,
    ) -> Float[Tensor, "B T d"] | tuple[Float[Tensor, "B T d"], State]:
        """The layer's output; with ``return_state`` also the state after the last token.

        Args:
            state: the state to continue from, which is not changed; None for an empty one.
            cu_seqlens: boundaries [0, ..., T] of sequences packed along time (B = 1); the state then has one
                row each.

        Raises:
            ValueError: on wrong shapes or a state of another layer.
        """
        self._check_width(x)
        shard = distributed.current()
        if shard is not None:
            cu_seqlens = shard.of_call(x, state, cu_seqlens)
        rows = check_packing(cu_seqlens, x.shape[0], x.shape[1])
        given = None if state is None else self._checked(state, rows)
        memory_state = None if given is None else self._memory_state(given)
        # x says where to compute: the weights may still be elsewhere
        position = torch.zeros(rows, dtype=torch.int64, device=x.device) if given is None else given.position
        tails = self._empty_tails(rows, x.device) if given is None else self._tails(given)
        if shard is None:
            sequences = Sequences(x.shape[1], position, cu_seqlens)
            remember = partial(regress, state=memory_state, cu_seqlens=cu_seqlens)
        else:
            start = shard.start(rows, x.device)
            sequences = distributed.ShardSequences(x.shape[1], start, cu_seqlens, shard=shard)
            remember = partial(distributed.regress, shard=shard)
        streams, tails = self.project(self._entered(x), sequences, tails)
        y = remember(
            self.problem,
            streams["q"],
            streams["k"],
            streams["v"],
            params=self.memory(),
            return_state=return_state,
            engine=self.engine,
            **self._controls(streams),
        )
        if not return_state:
            return self._read_out(y, streams)
        y, memory_state = y
        return self._read_out(y, streams), memory_state.replace(**tails)

    def step(
        self, x: Float[Tensor, "B d"], state: State, *, inplace: bool = False
    ) -> tuple[Float[Tensor, "B d"], State]:
        """One token: as ``forward`` without the time axis. With ``inplace`` the memory's tensors in ``state``
        are overwritten, as in ``ttr.step``: continue with the returned state and do not use the given one
        again.

        Raises:
            ValueError: as ``forward``, or inside ``ttr.distributed.sequence_parallel``.
        """
        if distributed.current() is not None:
            raise ValueError(
                "Inside sequence_parallel a layer computes all tokens of a shard at once, not single ones. "
                "Decode outside of the block."
            )
        return planned_step.take(self, self, x, state, inplace, self.around_memory)

    def check_token(self, x: Float[Tensor, "B d"], state: State) -> State:
        """The state, once it and the token are checked.

        Raises:
            ValueError: as ``step``.
        """
        check_tensor("The input of a layer", x)
        if x.ndim != 2:
            raise ValueError(
                f"step takes one token, x [batch, channels], got shape {list(x.shape)}. Call "
                "the layer itself for a sequence."
            )
        self._check_width(x[:, None])
        return self._checked(state, x.shape[0])

    def memory_step(self, inplace: bool) -> MemoryStep:
        """``ttr.step`` of this layer's memory."""
        return memory_step(self.problem, inplace, self.engine)

    def around_memory(
        self, x: Float[Tensor, "B d"], state: State, remember: MemoryStep
    ) -> tuple[Float[Tensor, "B d"], State]:
        """``step`` with another step of the memory, which gets the token's q, k, v, the state, controls and
        parameters."""
        x = self._entered(x[:, None])
        streams, tails = self.project(x, Sequences(1, state.position), self._tails(state))
        controls = {
            name: control if name == "ridge" else control[:, 0]
            for name, control in self._controls(streams).items()
        }
        token = [streams[name][:, 0] for name in ("q", "k", "v")]
        y, memory_state = remember(token, self._memory_state(state), controls, self.memory())
        return self._read_out(y[:, None], streams)[:, 0], memory_state.replace(**tails)

    def initial_state(self, batch: int, capacity: int | None = None) -> State:
        """The state before the first token; ``capacity`` fixes the number of slots of a memory that stores
        its pairs."""
        s, like = self.sizes, self._like()
        state = initial_state(
            self.problem,
            batch,
            (s.heads, s.key_heads, s.value_heads),
            s.key_size,
            s.value_size,
            capacity=capacity,
            params=self.memory(),
            device=like.device,
            dtype=like.dtype,
        )
        return state.replace(**self._empty_tails(batch, like.device))

    def extra_repr(self) -> str:
        return f"{self.problem!r}, {self.sizes!r}"

    def _entered(self, x: Float[Tensor, "B T d"]) -> Float[Tensor, "B T d"]:
        return x if self.head_shard is None else self.head_shard.enter(x)

    def _read_out(self, y: Float[Tensor, "B T H V"], streams: Streams) -> Float[Tensor, "B T d"]:
        """The parts after the memory, then the output projection."""
        streams = {**streams, "y": y}
        for name, part in self.output_parts:
            streams |= part(self.output[name](), streams)
        y = self.o_proj(streams["y"].flatten(-2))
        return y if self.head_shard is None else self.head_shard.leave(y)

    def _controls(self, streams: Streams) -> dict[str, Tensor]:
        return {name: streams[name] for name in self.problem.controls()}

    def _like(self) -> Tensor:
        """A tensor of the dtype and on the device of the layer's weights."""
        weight = self.o_proj.weight
        # modules that torch.ao quantised dynamically have a method of that name, and compute on the CPU
        return weight if isinstance(weight, Tensor) else torch.empty(0, dtype=torch.float32)

    def _empty_tails(self, batch: int, device: torch.device) -> dict[str, Tensor]:
        wide = torch.promote_types(self._like().dtype, torch.float32)
        tails = self.tails().items()
        return {name: torch.zeros(batch, *shape, device=device, dtype=wide) for name, shape in tails}

    def _tails(self, state: State) -> dict[str, Tensor]:
        return {name: state[name] for name in self.tails()}

    def _memory_state(self, state: State) -> State:
        tails = self.tails()
        return State(
            {name: tensor for name, tensor in state.tensors.items() if name not in tails},
            state.position,
            state.capacity,
        )

    def _check_width(self, x: Tensor) -> None:
        weight = self._like()
        check_tensor("The input of a layer", x)
        check_place("The input of a layer", x, weight)
        if (
            weight.dtype in FLOATING
            and x.dtype != weight.dtype
            and not torch.is_autocast_enabled(x.device.type)
        ):
            raise ValueError(
                f"This layer's weights are {weight.dtype}, and its input {x.dtype}. "
                "Convert one of them with .to(), or use torch.autocast."
            )
        if x.ndim != 3 or x.shape[-1] != self.sizes.d_model:
            raise ValueError(
                f"This layer takes vectors of {self.sizes.d_model} channels, got an input of "
                f"shape {list(x.shape)}."
            )

    def _checked(self, state: State, rows: int) -> State:
        """The state, checked against the sizes of this layer; the memory's own tensors are checked where they
        are used."""
        check_fields(state)
        for name, shape in self.tails().items():
            found = list(state[name].shape) if name in state.tensors else "missing"
            if name in state.tensors:
                check_place(f"The state's {name!r}", state[name], self._like())
            if found != [rows, *shape]:
                raise ValueError(
                    f"The state's {name!r} must have shape {[rows, *shape]}, but is {found}. "
                    f"Use initial_state({rows}) or the state that a call of this layer "
                    "returned."
                )
        if list(state.position.shape) != [rows]:
            raise ValueError(
                f"The state counts tokens for {len(state.position)} sequences, but this call "
                f"has {rows}. Use one row per sequence."
            )
        return writable(state)


def _architecture(memory: object) -> Architecture:
    if isinstance(memory, Architecture):
        return memory
    if isinstance(memory, Problem):
        return Architecture.of(memory)
    hint = (
        f"ttr.catalogue[{memory!r}]"
        if isinstance(memory, str)
        else ("an entry of ttr.catalogue, or a ttr.Problem")
    )
    raise ValueError(f"Mixer takes an Architecture or a Problem, got {memory!r}. Use {hint}.")


def _sizes(
    problem: Problem,
    d_model: int,
    heads: tuple[int, int, int],
    key_size: int | None,
    value_size: int | None,
    layer: int,
    layers: int,
) -> Sizes:
    """The sizes of the layer, ``heads`` = those of queries, keys and values."""
    check_heads(*heads)
    check_sizes(1, d_model=d_model, layers=layers)
    check_sizes(layer=layer)
    if layer >= layers:
        raise ValueError(
            f"There is no layer {layer} among {layers}. Layers are counted from 0; ``layers`` is their "
            "number."
        )
    if d_model % heads[0] and None in (key_size, value_size):
        raise ValueError(
            f"d_model = {d_model} is not a multiple of heads = {heads[0]}. Give key_size and "
            "value_size, or other numbers."
        )
    key_size = d_model // heads[0] if key_size is None else key_size
    value_size = d_model // heads[0] if value_size is None else value_size
    check_sizes(key_size=key_size, value_size=value_size)
    return Sizes(
        d_model,
        *heads,
        key_size,
        value_size,
        problem.function.feature_size(key_size),
        problem.solver.pairs_per_token,
        layer,
        layers,
        problem.sizes().get("L", 0),
        problem.sizes()["P"],
    )
