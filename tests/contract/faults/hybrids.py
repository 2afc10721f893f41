"""Faults in the rules of transformers' models, in how they are put in place, and in planned layers."""

from .fault import Fault

FOLDER = "integrations/transformers"
SAME = ("test_a_model_computes",)

FAULTS = (
    Fault(f"{FOLDER}/rules.py", "torch.addcmul(y, x, wide(D)[:, None])", "y", SAME),
    Fault(f"{FOLDER}/mixers.py", "masked_fill(reset, -torch.inf)", "masked_fill(reset, 0.0)", SAME),
    Fault(f"{FOLDER}/mixers.py", "qkv * attention_mask[:, :, None]", "qkv * 1", SAME),
    Fault(f"{FOLDER}/mixers.py", "torch.maximum(total.abs(), floor)", "total.abs()", SAME),
    Fault(f"{FOLDER}/mixers.py", "k + wide(time_first)", "k", SAME),
    Fault(f"{FOLDER}/norms.py", "not self.norm_before_gate", "self.norm_before_gate", ("test_gated_norms",)),
    Fault(f"{FOLDER}/norms.py", "size // self.group_size", "1", ("test_gated_norms",)),
    Fault(f"{FOLDER}/packing.py", "together.tril()", "together", ("test_packed_sequences",)),
    Fault(f"{FOLDER}/packing.py", "mask & together", "mask", ("test_packed_sequences",)),
    Fault(
        f"{FOLDER}/packing.py", "mask.masked_fill(~together", "mask.masked_fill(together", ("test_packed",)
    ),
    Fault(f"{FOLDER}/products.py", "rows.sum(0) if wanted", "rows[0] if wanted", ("test_a_linear_map",)),
    Fault(
        f"{FOLDER}/products.py",
        "torch.is_grad_enabled() or watched((grad",
        "watched((grad",
        ("test_second_derivatives",),
    ),
    Fault(f"{FOLDER}/products.py", "or watched((grad, x, weight))", "", ("test_gradients_of_several",)),
    Fault(
        f"{FOLDER}/products.py",
        "grad.reshape(-1, grad.shape[-1])",
        "grad.flatten(0, -2)",
        ("test_gradients_of_several",),
    ),
    Fault(
        f"{FOLDER}/products.py",
        "and (bias is None or bias.shape == weight.shape[:1])",
        "",
        ("test_what_stays",),
    ),
    Fault(f"{FOLDER}/products.py", "x if of_weight else None", "x", ("test_what_a_product_keeps",)),
    Fault(f"{FOLDER}/products.py", "weight if of_x else None", "weight", ("test_what_a_product_keeps",)),
    Fault(
        f"{FOLDER}/products.py", "or torch.are_deterministic_algorithms_enabled()", "", ("test_nothing_is",)
    ),
    Fault(f"{FOLDER}/products.py", "watched(()) or", "", ("test_nothing_is",)),
    Fault(f"{FOLDER}/products.py", "rest.new_zeros", "rest.new_ones", ("test_products_of_experts",)),
    Fault(f"{FOLDER}/products.py", "and not watched(tensors)", "", ("test_what_stays",)),
    Fault(f"{FOLDER}/products.py", "with _measuring:", "if True:", ("test_threads_that_ask",)),
    Fault(f"{FOLDER}/products.py", "or not faster()", "", ("test_nothing_is",)),
    Fault(f"{FOLDER}/decoding.py", "stand |= zip(streams, tensors)", "pass", SAME),
    Fault(f"{FOLDER}/decoding.py", "copy.deepcopy(x) if i == number else x", "x", SAME),
    Fault(f"{FOLDER}/rules.py", "inputs[..., 1:]", "inputs[..., :-1]", SAME),
    Fault(f"{FOLDER}/rules.py", "y * silu(wide(z.mT))", "y", SAME),
    Fault(f"{FOLDER}/rules.py", "or bounds[-1] > length", "", ("test_wrong_bounds",)),
    Fault(f"{FOLDER}/rules.py", ".nonzero()[:, 0] + 1", ".nonzero()[:, 0]", ("test_numbered",)),
    Fault(f"{FOLDER}/rules.py", "cu_seqlens=bounds", "cu_seqlens=None", ("test_packed_sequences",)),
    Fault(f"{FOLDER}/replacement.py", "or not _active.get()", "", ("test_other_models",)),
    Fault(
        f"{FOLDER}/replacement.py",
        "if not all(x.is_cpu for x in tensors):",
        "if False:",
        ("test_other_devices",),
    ),
    Fault(f"{FOLDER}/replacement.py", "if packed else reference", "", ("test_a_package_for",)),
    Fault(
        f"{FOLDER}/replacement.py",
        "with checks(values=False), products() if many_rows else nullcontext():",
        "if True:",
        ("test_nan_stays",),
    ),
    Fault(
        f"{FOLDER}/acceleration.py",
        "finalize(layer, remove, modules)",
        "lambda: None",
        ("test_a_model_is_freed",),
    ),
    Fault(
        f"{FOLDER}/acceleration.py", "                undo()", "                pass", ("test_other_models",)
    ),
    Fault(
        f"{FOLDER}/acceleration.py",
        "is_compiling() and not recomputed",
        "is_compiling()",
        ("test_compiled_models",),
    ),
    Fault(f"{FOLDER}/acceleration.py", "torch.compiler.is_compiling()", "False", ("test_compiled_models",)),
    Fault(f"{FOLDER}/acceleration.py", "active()(call)", "call", ("test_gradients_with_layers",)),
    Fault(
        f"{FOLDER}/acceleration.py",
        "planner = _take(self)",
        "planner = _planners[self] = Planner(self)",
        ("test_a_copy_and",),
    ),
    Fault(
        f"{FOLDER}/acceleration.py",
        ", MethodType(type(layer).forward, layer)",
        ",",
        ("test_a_loaded_model",),
    ),
    Fault(
        f"{FOLDER}/acceleration.py",
        'if "forward" not in layer.__dict__]',
        "]",
        ("test_models_without_such",),
    ),
    Fault(f"{FOLDER}/replacement.py", "threading.RLock()", "threading.Lock()", ("test_a_model_is_freed",)),
    Fault(f"{FOLDER}/decoding.py", "return *flat, *states.values()", "return *flat,", SAME),
    Fault(f"{FOLDER}/decoding.py", "_thread.given = tried.pop()", "_thread.given = tried[0]", SAME),
    Fault(
        f"{FOLDER}/decoding.py", "all(map(_is_like, tensors, self.like))", "True", ("test_changed_weights",)
    ),
    Fault(
        f"{FOLDER}/decoding.py", "return not changed and not module.training", "return True", ("test_a_hook",)
    ),
    Fault(
        f"{FOLDER}/decoding.py",
        'return type(module).__module__.startswith(("torch.nn.", "transformers."))',
        "return True",
        ("test_a_replaced_module",),
    ),
    Fault(
        f"{FOLDER}/decoding.py",
        "if any(id(x) in own",
        "if False and any(id(x) in own",
        ("test_a_tensor_that",),
    ),
    Fault(
        f"{FOLDER}/decoding.py",
        "if len(set(map(id, tensors))) < len(tensors):",
        "if False:",
        ("test_a_tensor_at_two_places",),
    ),
    Fault(f"{FOLDER}/decoding.py", "if not plan.fits_layer():", "if False:", ("test_a_hook",)),
    Fault(
        "engines/native/operations.py",
        "groups += [*self._ordered(between, known), (False, [o])]",
        "groups = [(False, [o]), *groups, *self._ordered(between, known)]",
        ("test_runs_keep_their_place",),
    ),
    Fault(
        "recording.py",
        "if _is_shaped_by_numbers(name, args, kwargs):",
        "if False:",
        ("test_a_function_that_looks",),
    ),
)
