"""Faults in how processes share the heads of a layer."""

from .fault import Fault

TWO = ("test_two_processes_are_one",)
WHOLE = ("test_layers_that_stay_whole",)
DIVIDE = ("test_heads_that_do_not_divide",)
NUMBERS = ("test_fixed_decays_know",)
REFUSED = ("test_what_cannot_be_divided",)

FAULTS = (
    Fault("distributed/heads.py", "shares.redistribute(placements=[Replicate()])", "shares", TWO),
    Fault("distributed/heads.py", "if not (torch.is_grad_enabled() and x.requires_grad)", "if True", TWO),
    Fault("distributed/heads.py", "self.enter(x.to_local())", "x.to_local()", TWO),
    Fault("distributed/heads.py", "Shard(axis) if groups == 1", "Shard(0) if groups == 1", TWO),
    Fault(
        "distributed/heads.py",
        "Shard(axis) if groups == 1 else strided_shard(axis, groups)",
        "Shard(axis)",
        TWO,
    ),
    Fault("distributed/heads.py", "axis)[mesh.get_local_rank()]", "axis)[0]", TWO),
    Fault("distributed/heads.py", "group.update(tensors)", "pass", TWO),
    Fault("distributed/heads.py", "always_call=True", "always_call=False", TWO),
    Fault("distributed/heads.py", "if isinstance(like, DTensor)", "if False", TWO),
    Fault("layer/heads.py", "shard.mesh.get_local_rank() * share.sizes.heads", "0", TWO),
    Fault("layer/heads.py", "at_heads(first, mixer.sizes.heads)", "at_heads(first, share.sizes.heads)", TWO),
    Fault("layer/heads.py", "module.matrices = smaller.matrices", "pass", TWO),
    Fault("layer/heads.py", "math.prod(sizes[: split[0]])", "1", TWO),
    Fault("layer/heads.py", "heads == 1 < sizes.heads", "heads == 1", DIVIDE),
    Fault("layer/heads.py", "heads % processes and not single", "heads % processes", DIVIDE),
    Fault("layer/heads.py", "if part.head_groups(sizes) % processes", "if False", WHOLE),
    Fault("layer/heads.py", "if len(split) > 1", "if False", REFUSED),
    Fault("layer/heads.py", "if mesh.ndim != 1", "if False", REFUSED),
    Fault(
        "layer/output/norms.py",
        '"group": sizes.key_heads, "all": 1',
        '"group": sizes.heads, "all": 1',
        DIVIDE,
    ),
    Fault("layer/qkv/recurrent_gate.py", "max(sizes.heads // self.block, 1)", "sizes.heads", DIVIDE),
    Fault("decay.py", "range(first, first + heads)", "range(heads)", NUMBERS),
    Fault("weights/alibi.py", "log2(total)", "log2(heads)", NUMBERS),
    Fault("weights/multi_scale.py", "max(total - 1, 1)", "max(heads - 1, 1)", NUMBERS),
    Fault("weights/layerwise_decay.py", "(h + 1) / total", "(h + 1) / heads", NUMBERS),
    Fault("weights/product.py", "factor.at_heads(first, heads)", "factor", NUMBERS),
    Fault("models/tensor_parallel.py", "divide_heads(module, mesh)", "pass", TWO),
    Fault("models/modeling.py", "shared_like(drawn[key], tensor)", "drawn[key]", TWO),
)
