"""Faults in memories that stand in place of attention layers."""

from .fault import Fault

FILE = "integrations/transformers/conversion.py"

FAULTS = (
    Fault(FILE, "setattr(mixer, name, known)", "pass", ("test_the_same_attention",)),
    Fault(FILE, ".repeat_interleave(times, 0)", ".repeat(times, 1, *(1,) * (x.ndim - 1))", ("test_a_wide",)),
    Fault(FILE, "attention_mask=attention_mask,", "", ("test_padding_and_other",)),
    Fault(FILE, "position_ids=position_ids if attention_mask is None else None,", "", ("test_boundaries",)),
    Fault(FILE, "cu_seq_lens_q=cu_seq_lens_q,", "", ("test_boundaries",)),
    Fault(FILE, "read=None if memory is None else memory.tokens_read(),", "", ("test_cached_tokens",)),
    Fault(FILE, "memory.record_past = shape[1] > 1", "pass", ("test_candidates",)),
    Fault(FILE, "memory.recorded = None", "pass", ("test_candidates",)),
    Fault(FILE, "if layer.is_compileable:", "if False:", ("test_a_cache_of_fixed",)),
    Fault(FILE, "if not mixer.problem.function.causal:", "if False:", ("test_what_does_not_fit",)),
    Fault(FILE, "tensors[name].copy_(tensor)", "pass", ("test_tensors_that_are_missing",)),
    Fault("models/cache.py", "+ self.recorded.real.sum(1).to(self.state.position)", "", ("test_candidates",)),
    Fault(FILE, "memory.commit(problem, endless, shape[1], packing)", "pass", ("test_cached_tokens",)),
    Fault(FILE, "return layer % layers", "return abs(layer)", ("test_cached_tokens",)),
    Fault(FILE, "dict(getattr(model.config, CONVERTED, {}))", "{}", ("test_a_converted_model",)),
    Fault(FILE, "- wanted.float()).square()", ").square()", ("test_distil",)),
    Fault(FILE, "cycle(kept)", "cycle([kept[0] * 0])", ("test_distillation",)),
    Fault(FILE, "schedule.step()", "pass", ("test_distillation",)),
)
