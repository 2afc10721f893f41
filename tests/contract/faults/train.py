"""Faults in `ttr train`."""

from .fault import Fault

DATA, FOLDER, MODEL, SETTINGS, TRAIN = (
    f"experiments/train/{name}.py" for name in ("data", "folder", "model", "settings", "train")
)
OPENED = "experiments/saved_model.py"

FAULTS = (
    Fault(DATA, "begins = begins | (place == 0)", "begins = begins.clone()", ("test_a_row_begins",)),
    Fault(DATA, "ids.masked_fill(begins, -100)", "ids", ("test_a_row_begins",)),
    Fault(DATA, "place - start}", "place}", ("test_documents_are_packed",)),
    Fault(
        DATA, "torch.arange(len(document)) == 0", "torch.zeros(len(document)) > 0", ("test_documents_are",)
    ),
    Fault(
        DATA, "begins[torch.tensor([0, *map(len, documents[:-1])]).cumsum(0)] = True", "", ("test_a_text_is",)
    ),
    Fault(DATA, "sorted(parts.train + parts.tuning,", "sorted(parts.validation,", ("test_a_text_is_read",)),
    Fault(
        DATA,
        "evaluation_starts(parts.validation,",
        "evaluation_starts(parts.train,",
        ("test_a_text_is_read",),
    ),
    Fault(DATA, "if encoding.end is None", "if True", ("test_models_of_transformers",)),
    Fault(DATA, "number % HELD_OUT != HELD_OUT - 1", "True", ("test_a_stream_holds",)),
    Fault(DATA, "self.documents.set_epoch(epoch)", "return iter(())", ("test_a_stream_is_resumed",)),
    Fault(FOLDER, "if changed:", "if False:", ("test_other_arguments",)),
    Fault(FOLDER, '("config.json", STATE, METRICS)', "(STATE, METRICS)", ("test_a_folder_of_something",)),
    Fault(FOLDER, "if not left and _last", "if False and _last", ("test_arguments_are_mended",)),
    Fault(FOLDER, "return from_json(path.read_bytes())", "return {}", ("test_a_finished_run",)),
    Fault(
        FOLDER,
        "key=lambda path: int(path.name.rpartition",
        "key=lambda path: -int(path.name.rpartition",
        ("test_a_resumed",),
    ),
    Fault(FOLDER, "-*/{COMPLETE}", "-*/*", ("test_a_resumed",)),
    Fault(MODEL, "set_seed(settings.seed)", "", ("test_a_resumed_run",)),
    Fault(MODEL, "encoding.vocabulary > text.vocab_size", "False", ("test_a_model_of_another",)),
    Fault(OPENED, "longest < context", "False", ("test_a_model_of_another",)),
    Fault(MODEL, "if not known and", "if False and", ("test_a_model_of_another",)),
    Fault(MODEL, "return not torch.allclose", "return torch.allclose", ("test_who_reads_documents",)),
    Fault(MODEL, "if takes else {}", "if False else {}", ("test_who_reads_documents",)),
    Fault(OPENED, "if CONVERTED in config:", "if False:", ("test_models_of_transformers",)),
    Fault(OPENED, '"use_safetensors": True', '"use_safetensors": False', ("test_a_folder_of_pickles",)),
    Fault(OPENED, 'sorted(loaded["missing_keys"])', "[]", ("test_a_folder_of_pickles",)),
    Fault(SETTINGS, "self.batch // (self.accumulate * processes())", "self.batch", ("test_passes_of",)),
    Fault(OPENED, '*folder.glob("*.safetensors")', "", ("test_a_run_goes_on",)),
    Fault(DATA, "if not any(predicted", "if False and any(predicted", ("test_held_out_text",)),
    Fault(TRAIN, "loss * weight, 0.0", "loss, 0.0", ("test_the_held_out_loss",)),
    Fault(TRAIN, "torch.where(tokens > 0,", "torch.where(tokens >= 0,", ("test_the_held_out_loss",)),
    Fault(TRAIN, "max(num_items_in_batch, 1)", "num_items_in_batch", ("test_the_held_out_loss",)),
    Fault(TRAIN, "if parameter.ndim > 1", "", ("test_decay_is",)),
    Fault(
        TRAIN,
        "resume_from_checkpoint=None if checkpoint is None else str(checkpoint)",
        "",
        ("test_a_stream_is",),
    ),
    Fault(TRAIN, "model.config.use_cache = use_cache", "pass", ("test_the_folder_opens",)),
    Fault(TRAIN, "control.should_log = True", "pass", ("test_a_run_that_diverges",)),
    Fault(TRAIN, "not all(math.isfinite", "not any(math.isfinite", ("test_a_run_that_diverges",)),
    Fault(
        TRAIN, '"training_args.bin").unlink(missing_ok=True)', '"training_args.bin")', ("test_the_folder",)
    ),
    Fault(TRAIN, "data.encoding.save(settings.out)", "pass", ("test_bytes_are",)),
)
