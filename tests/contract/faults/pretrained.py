"""Faults in comparisons that begin with a pretrained model."""

from .fault import Fault

PRETRAINED, COST = "experiments/pretrained.py", "experiments/replacement.py"
MODEL, SPEED = "experiments/language_model.py", "experiments/speed.py"

FAULTS = (
    Fault(PRETRAINED, 'if "drop" in name', "if False", ("test_without_memories",)),
    Fault(PRETRAINED, "torch.manual_seed(seed)", "pass", ("test_without_memories",)),
    Fault(PRETRAINED, "found[::2]", "found[1::2]", ("test_which_layers",)),
    Fault(PRETRAINED, "not {*numbers} <= {*found}", "False", ("test_layers_that_are_not_there",)),
    Fault(PRETRAINED, "if vocabulary > known:", "if False:", ("test_a_tokenizer_of_another",)),
    Fault(PRETRAINED, "if hasattr(model.config, CONVERTED):", "if False:", ("test_a_converted_model_is_no",)),
    Fault(PRETRAINED, "self.config + self.weights", "self.config", ("test_another_model_is",)),
    Fault(PRETRAINED, "batch(step))", "batch(0))", ("test_distillation_teaches",)),
    Fault(
        "experiments/starting_point.py",
        "check_context(settings.pretrained, start.longest, settings.context)",
        "pass",
        ("test_a_model_that_reads_less",),
    ),
    Fault(PRETRAINED, "match_scales(model, teacher, batch(0))", "pass", ("test_distillation_teaches",)),
    Fault(MODEL, "steps, default_rate(model)", "steps, 0.0", ("test_distillation_teaches",)),
    Fault(SPEED, "taken[memory.name] += share *", "taken[memory.name] += 0 *", ("test_steps_cost",)),
    Fault("experiments/evaluation.py", "return layer.state.nbytes", "return 0", ("test_a_state_is_that",)),
    Fault(COST, "if better(behind):", "if False:", ("test_sentences_follow",)),
    Fault(COST, 'nats = behind["value"]', 'nats = -behind["value"]', ("test_sentences_follow",)),
    Fault(COST, "SMALLER * unchanged", "2 * unchanged", ("test_sentences_follow",)),
    Fault("experiments/memories.py", "if depth % len(names):", "if False:", ("test_a_hybrid_takes",)),
    Fault("integrations/transformers/conversion.py", "found.append(number)", "pass", ("test_which_layers",)),
)
