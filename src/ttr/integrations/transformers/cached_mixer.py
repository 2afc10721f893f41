"""A Mixer in a model of transformers, with its state in the model's cache."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

from ttr import distributed
from ttr.layer.mixer import Mixer
from ttr.models.cache import MemoryLayer
from ttr.models.packing import packing_of
from ttr.state import State


class CachedMixer(nn.Module):
    """A mixer in place of layer number ``layer`` of a decoder."""

    def __init__(self, mixer: Mixer, layer: int) -> None:
        super().__init__()
        self.layer_idx, self.mixer = layer, mixer

    def mixed(
        self, x: Float[Tensor, "B T D"], cache: Cache | None, **masks: Tensor | None
    ) -> Float[Tensor, "B T D"]:
        """The output of the mixer, which continues from the cache and leaves its state there; ``masks`` as of
        ``ttr.models.packing.packing_of``.

        Raises:
            ValueError: if they do not fit each other, or inside ``sequence_parallel``: the other layers of a
                model of transformers do not know of shards.
        """
        if distributed.current() is not None:
            raise ValueError(
                "sequence_parallel shares sequences among ttr's own layers; the other layers of a model of "
                "transformers would take a shard for the whole. Use data parallelism, or a TTRForCausalLM."
            )
        memory = None if cache is None else self._place_in(cache)
        shape = x.shape[0], x.shape[1]
        packing = packing_of(shape, **masks, read=None if memory is None else memory.tokens_read())
        x, cu_seqlens = packing.pack(x), packing.cu_seqlens
        if memory is None:
            return packing.unpack(self.mixer(x, cu_seqlens=cu_seqlens))
        # assisted decoding takes back candidates of the last call, which come several at once
        memory.record_past = shape[1] > 1
        memory.begin(self, x, cu_seqlens)
        memory.recorded = None
        if memory.state is not None and cu_seqlens is None and shape[1] == 1:
            y, memory.next = self.mixer.step(x[:, 0], memory.state, inplace=memory.owned)
            y = y[:, None]
        else:
            y, memory.next = self.read(x, memory.state, cu_seqlens)
        problem = self.mixer.problem
        endless = not (problem.weights.horizon or memory.next.capacity)
        memory.commit(problem, endless, shape[1], packing)
        return packing.unpack(y)

    def read(
        self, x: Float[Tensor, "B T D"], state: State | None, cu_seqlens: Int[Tensor, " bounds"] | None
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """The output of the layer, and its state after x."""
        return self.mixer(x, state, return_state=True, cu_seqlens=cu_seqlens)

    def _place_in(self, cache: Cache) -> MemoryLayer:
        """The state of this layer in a cache, which made place for what transformers keeps."""
        while len(cache.layers) <= self.layer_idx:  # caches without a configuration grow as they are used
            cache.layers.append(cache.layer_class_to_replicate())
        layer = cache.layers[self.layer_idx]
        if isinstance(layer, MemoryLayer):
            return layer
        if any(isinstance(each, CacheLayerMixin) and each.is_compileable for each in cache.layers):
            raise ValueError(
                "A cache of fixed length makes masks as long as itself, which a memory cannot read. Give "
                "converted models a DynamicCache, and leave cache_implementation out."
            )
        cache.layers[self.layer_idx] = MemoryLayer()
        return cache.layers[self.layer_idx]
