"""Faults in weights that come from other libraries, and in what is read from their configurations."""

from .fault import Fault

ROWS, FLA = "integrations/weights.py", "integrations/fla"
MIXERS = "integrations/transformers/recurrent_layers.py"
LOGITS, SAVED = ("test_logits_tokens_and",), ("test_mixers_are_saved",)
COMPUTED, REFUSED = ("test_mixers_compute",), ("test_models_that_cannot",)

FAULTS = (
    # rearrangements
    Fault(ROWS, "(part.T if moved", "(part.flip(1).T if moved", LOGITS),
    Fault(ROWS, "unflatten(0, (rows.groups, -1)).split", "unflatten(0, (1, -1)).split", COMPUTED),
    Fault(ROWS, "return x.flatten(1).T", "return x.flatten(1)", SAVED),
    Fault(ROWS, "torch.cat(parts, 1).flatten(0, 1)", "torch.cat([p.flatten(0, 1) for p in parts])", SAVED),
    Fault(ROWS, "if list(x.shape) != [", "if None in [", REFUSED),
    # settings and names of fla
    Fault(f"{FLA}/layers.py", "ShortConvolution(width=s.conv_size)", "Silu()", LOGITS),
    Fault(f"{FLA}/layers.py", "scale=2.0 if s.allow_neg_eigval else 1.0", "", LOGITS),
    Fault(f"{FLA}/layers.py", "replace(published.output[0], eps=s.norm_eps)", "published.output[0]", LOGITS),
    Fault(f"{FLA}/families.py", "bounds[-1:], bounds.diff(dim=0)", "bounds[:1], bounds.diff(dim=0)", LOGITS),
    Fault(f"{FLA}/families.py", "- increments[0]).logit()", ").logit()", LOGITS),
    Fault(f"{FLA}/families.py", "if not (increments > 0).all():", "if False:", ("test_models_that_fla",)),
    Fault(f"{FLA}/layers.py", '"value_heads": s.num_v_heads or', '"value_heads":', LOGITS),
    Fault(f"{FLA}/checkpoints.py", "norm_eps=s.norm_eps,", "", LOGITS),
    Fault(f"{FLA}/checkpoints.py", "_check_names(table, tensors)", "pass", REFUSED),
    Fault(f"{FLA}/checkpoints.py", "if settings[key] not in allowed:", "if False:", REFUSED),
    Fault(f"{FLA}/checkpoints.py", "if unknown:", "if False:", REFUSED),
    Fault(f"{FLA}/checkpoints.py", "value not in (None, False)", "True", ("test_settings_that_a_newer",)),
    Fault(
        f"{FLA}/checkpoints.py",
        "attention(spec), attention_sizes(spec)",
        "attention(spec), layers[layer][1]",
        LOGITS,
    ),
    Fault(f"{FLA}/checkpoints.py", "[each[name] for each in sizes]", "sizes[0][name]", LOGITS),
    Fault(f"{FLA}/checkpoints.py", "free -= set(layers)", "pass", REFUSED),
    Fault(
        f"{FLA}/checkpoints.py",
        '_check_known(spec, {"num_heads", *ATTENTION_DEFAULTS}, "attn")',
        "pass",
        REFUSED,
    ),
    Fault(f"{FLA}/checkpoints.py", "if name in REFUSED:", "if False:", REFUSED),
    Fault(
        f"{FLA}/checkpoints.py",
        "model.generation_config.save_pretrained(folder)",
        "folder.mkdir()",
        ("test_shards",),
    ),
    Fault(ROWS, ' and source.endswith(".weight")', "", LOGITS),
    Fault(f"{FLA}/layers.py", "iterations=s.max_cg_step_training", "", LOGITS),
    Fault(f"{FLA}/layers.py", "at_least=s.lambda_lower_bound", "", LOGITS),
    Fault(f"{FLA}/layers.py", "Rotary(base=s.rope_theta)", "Rotary()", LOGITS),
    Fault(f"{FLA}/families.py", 'only={"attn": (None,)},', "", ("test_attention_in_a_model",)),
    Fault("layer/qkv/pointwise.py", "streams[name] + params[name]", "streams[name]", LOGITS),
    Fault(
        f"{FLA}/checkpoints.py", '| {"vocab_size": model.config.vocab_size}', "", ("test_a_model_with_more",)
    ),
    Fault(f"{FLA}/checkpoints.py", ".eval()", ".train()", LOGITS),
    # layers of transformers
    Fault(MIXERS, "Rows((STEP_SIZE, DECAY)", "Rows((DECAY, STEP_SIZE)", COMPUTED),
    Fault(MIXERS, '(*(f"{name}_proj.weight" for name in "qkv"), GATE)', "(GATE,)", COMPUTED),
    Fault(MIXERS, 'for name in "vkq"), DECAY', 'for name in "vqk"), DECAY', COMPUTED),
    Fault(MIXERS, '"D": "output.skip.strength",', "", COMPUTED),
    Fault(MIXERS, "eps=norm.variance_epsilon", "eps=0.1", COMPUTED),
    Fault(MIXERS, "attention_mask=attention_mask,", "", COMPUTED),
    Fault(
        MIXERS,
        "cu_seq_lens_q=cu_seq_lens_q, cu_seq_lens_k=cu_seq_lens_k,",
        "",
        ("test_sequences_packed_for",),
    ),
    Fault(MIXERS, '== channels else "group"', '== channels else "all"', ("test_groups_of_mixers",)),
    Fault(MIXERS, "if lowest > 0 or", "if", ("test_layers_that_no",)),
    Fault(MIXERS, "if layer.in_proj.bias is not None:", "if False:", ("test_layers_that_no",)),
    Fault(MIXERS, "if ours.keys() != layer.names_of_mixer:", "if False:", ("test_adapters_of",)),
    Fault(MIXERS, "or like.keys() != layer.names_of_mixer:", ":", ("test_adapters_of",)),
    Fault(MIXERS, "x.reshape(layer.shapes[name])", "x", SAVED),
    Fault(MIXERS, "self.register_load_state_dict_pre_hook(_loaded)", "pass", SAVED),
    Fault(MIXERS, "x.to(place, copy=True)", "x.to(place)", ("test_mixers_have_weights",)),
    Fault(MIXERS, ".requires_grad_(False)", ".requires_grad_(True)", ("test_dtypes_and_frozen",)),
    Fault(MIXERS, ".requires_grad_(learns)", ".requires_grad_(True)", ("test_dtypes_and_frozen",)),
    Fault(MIXERS, "seq_idx=seq_idx,", "", ("test_sequences_numbered",)),
    Fault(MIXERS, 'if layer.activation not in ("silu", "swish"):', "if False:", ("test_layers_that_no",)),
    Fault(MIXERS, "if others:", "if False:", ("test_layers_with_adapters",)),
    # a norm of several heads
    Fault("layer/output/norms.py", "(y * groups)", "y", ("test_groups_of_mixers",)),
)
