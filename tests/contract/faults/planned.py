"""Faults in recordings, in the kernel that replays them, in planned steps and in the buffers of pairs."""

from .fault import Fault

SUMS = ("test_the_kernel_is_the_dot",)

FAULTS = (
    Fault(
        "recording.py",
        "for shares in (True, False):",
        "for shares in (True,):",
        ("test_tensors_that_are_written",),
    ),
    Fault(
        "recording.py",
        "if not reads and (not tensors or",
        "if not reads or (not tensors and",
        ("test_random",),
    ),
    Fault(
        "recording.py",
        'if name != "__setitem__" and not tensors:',
        "if False:",
        ("test_a_function_that_looks",),
    ),
    Fault(
        "recording.py",
        "recording, _thread.recording = is_recording(), False",
        "recording = True",
        ("test_a_call_that_is_kept",),
    ),
    Fault("recording.py", "and x.numel() == result.numel()", "", ("test_a_replay",)),
    Fault("engines/native/operations.py", "and not o.reads & written", "", ("test_what_a_call_that_is",)),
    Fault(
        "engines/native/operations.py",
        "inside = x.tensor.data_ptr() - self.examples[root].data_ptr()",
        "inside = 0",
        ("test_a_replay",),
    ),
    Fault("engines/native/operations.py", "visible |= o.reads", "pass", ("test_a_replay",)),
    Fault(
        "engines/native/entries.py",
        "REVERSED[name], args[::-1]",
        "REVERSED[name], args",
        ("test_the_kernel_computes",),
    ),
    Fault("engines/native/entries.py", "start * out.stride(axis)", "start", ("test_the_kernel_computes",)),
    Fault("engines/native/entries.py", "0 if size == 1 else stride", "stride", ("test_the_kernel_computes",)),
    Fault(
        "engines/native/attention.py", "key.stride()[:3]", "value.stride()[:3]", ("test_the_kernel_reads",)
    ),
    Fault(
        "engines/torch/steps/pairs.py",
        "full = even and all(",
        "full = even or all(",
        ("test_planned_tokens",),
    ),
    Fault(
        "dispatch.py",
        'engine == "auto" and not collecting()',
        'engine == "auto"',
        ("test_every_token_reports",),
    ),
    Fault(
        "recorded_step.py", "collecting() or watched(token)", "watched(token)", ("test_a_bound_step_reports",)
    ),
    Fault("layer/planned_step.py", "or collecting()", "", ("test_every_token_reports",)),
    Fault("layer/planned_step.py", "watched((x,))", "False", ("test_a_dispatch_mode",)),
    Fault("slots.py", "free = self.filled == start and", "free = ", ("test_states_that_share",)),
    Fault(
        "slots.py", "buffer.tensor.data[:, :stop]", "buffer.tensor[:, :stop]", ("test_a_graph_that_saved",)
    ),
    Fault("slots.py", "max(2 * stop, 64)", "stop", ("test_a_growing_cache",)),
    Fault("layer/planned_step.py", "not _unchanged(modules) or", "", ("test_a_layer_that_does_more",)),
    Fault(
        "layer/planned_step.py",
        "learned = [group.get(name) for group, name in places]",
        "pass",
        ("test_weights",),
    ),
    Fault("layer/planned_step.py", "WeakKeyDictionary()", "{}", ("test_a_planned_layer_can",)),
    Fault("layer/planned_step.py", "or torch.is_grad_enabled()", "", ("test_gradients_are_never",)),
    Fault(
        "one_token.py",
        "and all(map(may_write, (*state.tensors.values(), state.position)))",
        "",
        ("test_a_state_that_overlaps",),
    ),
    Fault("one_token.py", "stride <= reach", "stride <= 0", ("test_a_state_that_overlaps",)),
    Fault(
        "recorded_step.py",
        "values.check_finite(repr(name), x)",
        "pass",
        ("test_a_bound_step",),
    ),
    Fault("recorded_step.py", "values.check_control(name, x)", "pass", ("test_a_bound_step",)),
    # packed sequences
    Fault(
        "packed.py", "lengths[row] < share * lengths[batch[0]]", "False", ("test_packed_sequences_are_those",)
    ),
    Fault("packed.py", "1.0 if x.wants_state or not", "FULL if not", ("test_packed_sequences_are_those",)),
    Fault(
        "packed.py",
        "if repeats else torch.zeros_like(part[:, -1:])",
        "",
        ("test_what_fills_up",),
    ),
    Fault("packed.py", "x.state.select(rows)", "x.state", ("test_packed_sequences_go_on",)),
    Fault(
        "packed.py", "state.select(torch.tensor(rows).argsort())", "state", ("test_packed_sequences_go_on",)
    ),
    # pairs that are left out, and kernels of short vectors
    Fault(
        "engines/torch/fused_attention.py",
        "least = -NEGLIGIBLE[query.dtype] - 2 * reach",
        "least = -NEGLIGIBLE[query.dtype]",
        ("test_pairs_that_are_left_out",),
    ),
    Fault(
        "engines/torch/fused_attention.py",
        "slice(met.start + first, met.stop)",
        "met",
        ("test_pairs_that_are_left_out",),
    ),
    Fault(
        "engines/torch/fused_attention.py",
        "count = int(reached[-1]) + 1",
        "count = 1",
        ("test_pairs_that_are_left_out",),
    ),
    Fault("engines/torch/kernel_sums.py", "stop = start + query.shape[2]", "stop = start + 1", SUMS),
    Fault("engines/torch/kernel_sums.py", "later = order > order[start:, None]", "later = order < 0", SUMS),
    Fault("engines/torch/kernel_sums.py", "kept * memory + features", "memory + features", SUMS),
    Fault(
        "functions/features/taylor.py",
        "return 1 + products * (1 + products / 2)",
        "return 1 + products",
        SUMS,
    ),
)
