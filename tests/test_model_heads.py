"""Heads that classify sequences and tokens or find an answer: a padded batch gives each row's own result, and
Auto classes, Trainer's losses and pipelines know them."""

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from tests.decoders import HYBRID, VOCABULARY, assert_close, padded, tiny
from ttr.laws.tolerances import FLOAT32
from ttr.models import TTRForQuestionAnswering, TTRForSequenceClassification, TTRForTokenClassification

HEADS = {
    AutoModelForSequenceClassification: TTRForSequenceClassification,
    AutoModelForTokenClassification: TTRForTokenClassification,
    AutoModelForQuestionAnswering: TTRForQuestionAnswering,
}
ROWS = [torch.tensor([4, 1, 7, 7, 2]), torch.tensor([3, 9, 1, 5, 6, 2, 8])]


def with_head(auto):
    config = tiny(HYBRID).config
    config.num_labels, config.pad_token_id = 3, 0
    assert VOCABULARY > max(row.max() for row in ROWS)
    return auto.from_config(config).double().eval()


@pytest.mark.parametrize("auto", HEADS)
def test_an_auto_class_makes_saves_and_loads_it(auto, tmp_path):
    model = with_head(auto)
    assert type(model) is HEADS[auto]
    model.save_pretrained(tmp_path)
    again, report = auto.from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert type(again) is HEADS[auto] and not any(report.values())
    for mine, its in zip(model(ROWS[0][None]).values(), again(ROWS[0][None]).values(), strict=True):
        if isinstance(mine, torch.Tensor):
            assert_close(its, mine)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("auto", HEADS)
def test_a_padded_batch_is_its_rows(auto, side):
    model, (ids, mask) = with_head(auto), padded(ROWS, side)
    batch = model(ids * mask, attention_mask=mask)
    for i, row in enumerate(ROWS):
        alone = model(row[None])
        if auto is AutoModelForSequenceClassification:
            assert_close(batch.logits[i], alone.logits[0])
        else:
            for name in (
                ("logits",) if auto is AutoModelForTokenClassification else ("start_logits", "end_logits")
            ):
                assert_close(batch[name][i][mask[i].bool()], alone[name][0])


def test_packed_tokens_are_classified_as_of_separate_sequences():
    model = with_head(AutoModelForTokenClassification)
    packed = model(torch.cat(ROWS)[None], cu_seqlens=torch.tensor([0, 5, 12]))
    assert_close(packed.logits, torch.cat([model(row[None]).logits for row in ROWS], dim=1))


@pytest.mark.parametrize(
    "auto, labels",
    [
        (AutoModelForSequenceClassification, {"labels": torch.tensor([0, 2])}),
        (AutoModelForTokenClassification, {"labels": torch.tensor([[0, 1, 2, 1, 0, -100, -100], [2] * 7])}),
        (
            AutoModelForQuestionAnswering,
            {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 5])},
        ),
    ],
)
def test_the_loss_reaches_every_weight(auto, labels):
    model, (ids, mask) = with_head(auto), padded(ROWS, "right")
    outputs = model(ids * mask, attention_mask=mask, **labels)
    if auto is not AutoModelForQuestionAnswering:
        wanted = torch.nn.functional.cross_entropy(outputs.logits.flatten(0, -2), labels["labels"].flatten())
        assert_close(outputs.loss, wanted.float(), FLOAT32)  # transformers takes it in float32
    outputs.loss.backward()
    assert all(tensor.grad is not None for tensor in model.parameters())
