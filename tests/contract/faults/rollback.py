"""Faults in what a cache records and how it goes back."""

from .fault import Fault

REMOVED = ("test_removed_columns",)
ROWS = ("test_rows_move_between",)

FAULTS = (
    Fault("models/recorded.py", "self.real.shape[1] - columns", "self.real.shape[1] - columns + 1", REMOVED),
    Fault(
        "models/recorded.py", "attention_mask=self.real", "attention_mask=None", ("test_padding_is_removed",)
    ),
    Fault(
        "models/recorded.py",
        "Recorded(self.before.select(rows), self.inputs[rows]",
        "Recorded(self.before, self.inputs[rows.flip(0)]",
        ROWS,
    ),
    Fault(
        "models/recorded.py", "torch.cat([self.inputs, inputs]", "torch.cat([inputs, self.inputs]", REMOVED
    ),
    Fault(
        "models/recorded.py",
        "def __deepcopy__(self",
        "def copied(self",
        ("test_a_crop_keeps_the_graph",),
    ),
    Fault(
        "models/packing.py",
        "if self.shape[0] != self.sequences:\n            return None",
        "",
        ("test_sequences_packed_in_a_row",),
    ),
    Fault(
        "models/packing.py", "index_fill(0, self.index, True)", "fill_(True)", ("test_padding_is_removed",)
    ),
    Fault(
        "models/cache.py",
        "self.record_past = True\n        self.owned = False",
        "self.record_past = True",
        ("test_only_a_recording",),
    ),
    Fault(
        "models/cache.py",
        "self.owned = False\n        self.columns -= remove",
        "self.columns -= remove",
        REMOVED,
    ),
    Fault("models/cache.py", "self.columns -= remove", "pass", REMOVED),
    Fault(
        "models/cache.py", "packing.unpadded < packing.shape[1]", "False", ("test_a_recording_takes_padding",)
    ),
    Fault("models/cache.py", "recorded, recorded is not None", "recorded, False", REMOVED),
    Fault("models/cache.py", "if remove > self.unpadded:", "if False:", ("test_pairs_lose_columns",)),
    Fault(
        "models/packing.py", "tokens.all(0).flip(0)", "tokens.any(0).flip(0)", ("test_pairs_lose_columns",)
    ),
    Fault(
        "models/cache.py",
        "self.recorded, self.owned = None, False",
        "self.recorded = None",
        ("test_sequences_packed_in_a_row",),
    ),
    Fault(
        "models/cache.py",
        "if not padded and keeps_too_little(self.problem, self.state) is None:",
        "if False:",
        ("test_a_recording_does_not_hold",),
    ),
    Fault(
        "models/cache.py",
        "self.recorded = self.recorded.select(indices)",
        "pass",
        ROWS,
    ),
    Fault("models/cache.py", "self.recorded.state(layer), None, False", "self.state, None, False", REMOVED),
    Fault("models/cache.py", "self.columns + query_length, 0", "query_length, 0", ("test_every_verb",)),
    Fault("models/cache.py", "min((limit for limit in", "max((limit for limit in", ("test_limits_are_told",)),
    Fault(
        "models/cache.py",
        'self.state = self.state.to("cpu")',
        "self.state = None",
        ("test_states_can_leave",),
    ),
    Fault(
        "models/generation.py",
        "if generation_config.is_assistant and",
        "if not generation_config.is_assistant and",
        ("test_assisted_decoding",),
    ),
    Fault("models/generation.py", "layer.record_past = record_past", "pass", ("test_assisted_decoding",)),
    Fault("models/modeling.py", "value=-100)[:, 1:]", "value=-100)[:, :-1]", ("test_the_loss",)),
    Fault(
        "models/modeling.py",
        "shift_labels[:, columns]",
        "shift_labels[:, : logits.shape[1]]",
        ("test_the_loss_is_that",),
    ),
)
