"""Faults in the configuration of the decoder and in the packing of its batches."""

from .fault import Fault

FAULTS = (
    Fault(
        "models/configuration.py",
        "super().to_dict() | {VERSION: ttr.__version__}",
        "super().to_dict()",
        ("test_a_name_means",),
    ),
    Fault("models/conversion.py", "layers in BEFORE_VERSIONS", "False", ("test_a_name_means",)),
    Fault(
        "models/spellings.py",
        "(step[0] == 1) | (step[0] == columns)",
        "step[0] > 0",
        ("test_every_spelling",),
    ),
    Fault("models/spellings.py", "| (step[0] == columns)", "", ("test_positions_may_count",)),
    Fault("models/spellings.py", "(step > 0).any(0)", "(step > 0).all(0)", ("test_every_spelling",)),
    Fault("models/spellings.py", "starts.cumsum(1)", "1", ("test_every_spelling",)),
    Fault("models/spellings.py", "right.all(2) & known", "right.all(2)", ("test_a_square_mask_may",)),
    Fault("models/spellings.py", "right.all(2) & known", "known", ("test_what_is_not_understood",)),
    Fault("models/spellings.py", "read.to(token)[sequence] > 0", "False", ("test_what_is_not_understood",)),
    Fault(
        "models/packing.py",
        "follows[self.cu_seqlens[:-1][lengths > 0].long()] = False",
        "",
        ("test_every_spelling",),
    ),
    Fault(
        "models/packing.py",
        "self.index.diff(prepend=self.index[:1] - 2) == 1",
        "self.index >= 0",
        ("test_positions_may_count",),
    ),
    Fault(
        "models/packing.py",
        'starts["position_ids"] |= starts["cu_seqlens"]',
        "pass",
        ("test_a_cache_goes_on",),
    ),
    Fault(
        "models/packing.py",
        "torch.searchsorted(tokens.index, boundaries.to(tokens.index))",
        "boundaries",
        ("test_boundaries_may",),
    ),
    Fault(
        "models/packing.py",
        "(~self.real).byte().argsort(",
        "self.real.byte().argsort(",
        ("test_padding_behind",),
    ),
    Fault(
        "models/packing.py", "self.real[:, 1:] & self.real[:, :-1]", "self.real[:, 1:]", ("test_one_graph",)
    ),
    Fault("models/packing.py", "self.cu_seqlens[1:].long() - 1", "-1", ("test_packed_sequences_have",)),
    Fault("models/packing.py", "(column * self.real)", "column.expand_as(self.real)", ("test_a_mask_says",)),
    Fault("models/spellings.py", "of_rows.cumsum(0) - of_rows", "of_rows * 0", ("test_a_square",)),
    Fault(
        "models/spellings.py", "[:, :-time].count_nonzero(1)", "[:, :-time].shape[1]", ("test_a_mask_that",)
    ),
    Fault(
        "models/configuration.py",
        "size[layer] if isinstance",
        "size[0] if isinstance",
        ("test_every_layer_has",),
    ),
    Fault(
        "models/configuration.py",
        "if len(given) != self.num_hidden_layers:",
        "if False:",
        ("test_wrong_numbers",),
    ),
    Fault(
        "models/configuration.py", "setattr(self, name, self._size(name))", "pass", ("test_one_number_and",)
    ),
    Fault("models/packing.py", "or one_graph())", "or False)", ("test_a_compiled_prompt",)),
    Fault("models/packing.py", "if packed and one_graph():", "if False:", ("test_packed_sequences_in",)),
    Fault(
        "models/packing.py", "NEITHER_0_NOR_1_COMPILED)", "NEITHER_0_NOR_1)", ("test_packed_sequences_in",)
    ),
    Fault("models/spellings.py", "amax(1).clamp(min=1)", "amax(1)", ("test_a_square_mask_may",)),
    Fault("models/configuration.py", '["linear_attention"]', '["full_attention"]', ("test_accelerate",)),
    Fault(
        "layer/mixer.py", "weight if isinstance(weight, Tensor) else", "weight or", ("test_linear_modules",)
    ),
    Fault("models/export.py", '(*tensors, "position")', '("position", *tensors)', ("test_calls_go_on",)),
    Fault(
        "models/export.py",
        "zip(cache.layers, self._kinds)",
        "zip(cache.layers[::-1], self._kinds)",
        ("test_calls_go_on",),
    ),
    Fault("models/export.py", "if len(states) != len(self.names):", "if False:", ("test_calls_go_on",)),
    Fault(
        "models/configuration.py",
        "if types is not None and list(types) != self.layer_types:",
        "if False:",
        ("test_layers_have",),
    ),
    Fault(
        "models/export.py",
        "if not all(tensor.numel()",
        "if False and not all(tensor.numel()",
        ("test_a_state_that_grows",),
    ),
    Fault(
        "models/arguments.py", ".sequences > x.shape[0]", ".sequences > 99", ("test_packed_sequences_whose",)
    ),
    Fault("models/modeling.py", "x = packing.pack(entered[-1])", "pass", ("test_hidden_states_have",)),
    Fault(
        "layer/sequences.py",
        "x if torch.compiler.is_compiling() else x[:, -past:]",
        "x[:, -past:]",
        ("test_an_exported_graph",),
    ),
)
