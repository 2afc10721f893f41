"""Faults in memories that stand in place of attention layers."""

from .fault import Fault

FILE = "integrations/transformers/conversion.py"
CACHED = "integrations/transformers/cached_mixer.py"
DISTILLATION = "integrations/transformers/distillation.py"

FAULTS = (
    Fault(FILE, "setattr(mixer, name, known)", "pass", ("test_the_same_attention",)),
    Fault(FILE, ".repeat_interleave(times, 0)", ".repeat(times, 1, *(1,) * (x.ndim - 1))", ("test_a_wide",)),
    Fault(FILE, "attention_mask=attention_mask,", "", ("test_padding_and_other",)),
    Fault(FILE, 'packed["position_ids"] = position_ids', "pass", ("test_boundaries",)),
    Fault(FILE, '"cu_seq_lens_q": cu_seq_lens_q,', "", ("test_boundaries",)),
    Fault(CACHED, "read=None if memory is None else memory.tokens_read()", "", ("test_cached_tokens",)),
    Fault(CACHED, "memory.record_past = shape[1] > 1", "pass", ("test_candidates",)),
    Fault(CACHED, "memory.recorded = None", "pass", ("test_candidates",)),
    Fault(CACHED, "and each.is_compileable", "and False", ("test_a_cache_of_fixed",)),
    Fault(CACHED, "isinstance(each, CacheLayerMixin) and", "", ("test_mixers_compute_what",)),
    Fault(FILE, "if not mixer.problem.function.causal:", "if False:", ("test_what_does_not_fit",)),
    Fault(FILE, "tensors[name].copy_(tensor)", "pass", ("test_tensors_that_are_missing",)),
    Fault("models/cache.py", "+ self.recorded.real.sum(1).to(self.state.position)", "", ("test_candidates",)),
    Fault(CACHED, "memory.commit(problem, endless, shape[1], packing)", "pass", ("test_cached_tokens",)),
    Fault(FILE, "return layer % layers", "return abs(layer)", ("test_cached_tokens",)),
    Fault(FILE, "dict(getattr(model.config, CONVERTED, {}))", "{}", ("test_a_converted_model",)),
    Fault(FILE, "tensors.get_parameter(tensor).copy_(numbers)", "pass", ("test_a_new_part",)),
    Fault(DISTILLATION, "(y - wanted).square()", "y.square()", ("test_distil",)),
    Fault(DISTILLATION, "if not losses:", "if False:", ("test_distillation",)),
    Fault(DISTILLATION, "0.1 / math.sqrt", "0.01 / math.sqrt", ("test_distillation",)),
    Fault(DISTILLATION, "(y * wanted).sum()", "(y * wanted).sum().abs()", ("test_outputs_begin",)),
    Fault(DISTILLATION, "if projection.weight.requires_grad and", "if", ("test_outputs_begin",)),
    Fault(DISTILLATION, "and scale.isfinite()", "", ("test_outputs_begin",)),
    Fault(DISTILLATION, "cycle(kept)", "cycle([kept[0] * 0])", ("test_distillation",)),
    Fault(DISTILLATION, "schedule.step()", "pass", ("test_distillation",)),
)
