"""Faults in recordings, in the kernel that replays them, in planned steps and in the buffers of pairs."""

from .fault import Fault

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
        "engines/native/operations.py",
        "REVERSED[name], args[::-1]",
        "REVERSED[name], args",
        ("test_the_kernel_computes",),
    ),
    Fault("engines/native/operations.py", "start * out.stride(axis)", "start", ("test_the_kernel_computes",)),
    Fault(
        "engines/native/operations.py", "0 if size == 1 else stride", "stride", ("test_the_kernel_computes",)
    ),
    Fault(
        "engines/native/attention.py", "key.stride()[:3]", "value.stride()[:3]", ("test_the_kernel_reads",)
    ),
    Fault(
        "engines/torch/steps/pairs.py",
        "full = even and all(",
        "full = even or all(",
        ("test_planned_tokens",),
    ),
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
)
