"""Faults in memories that stand in place of attention layers."""

from .fault import Fault

FILE = "integrations/transformers/conversion.py"

FAULTS = (
    Fault(FILE, "setattr(mixer, name, known)", "pass", ("test_the_same_attention",)),
    Fault(FILE, ".repeat_interleave(times, 0)", ".repeat(times, 1, *(1,) * (x.ndim - 1))", ("test_a_wide",)),
    Fault(FILE, "attention_mask=attention_mask, read=", "read=", ("test_padding_and_other",)),
    Fault(FILE, "read=None if state is None else state.position", "", ("test_cached_tokens",)),
    Fault(FILE, "memory.commit(problem, endless, shape[1], packing)", "pass", ("test_cached_tokens",)),
    Fault(FILE, "return layer % layers", "return abs(layer)", ("test_cached_tokens",)),
    Fault(FILE, "dict(getattr(model.config, CONVERTED, {}))", "{}", ("test_a_converted_model",)),
    Fault(FILE, "- wanted.float()).square()", ").square()", ("test_distil",)),
    Fault(FILE, "kept[number % len(kept)]", "kept[0] * 0", ("test_distillation",)),
    Fault(FILE, "schedule.step()", "pass", ("test_distillation",)),
)
