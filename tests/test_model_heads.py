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


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("padding_id", [None, 0])
def test_a_mask_says_where_a_sequence_ends(padding_id, side):
    """Whatever tokens stand at padding; without a mask the padding token says it, as in transformers."""
    model, (ids, mask) = with_head(AutoModelForSequenceClassification), padded(ROWS, side)
    model.config.pad_token_id = padding_id
    alone = torch.cat([model(row[None]).logits for row in ROWS])
    assert_close(model(torch.where(mask.bool(), ids, 3), attention_mask=mask).logits, alone)
    if padding_id is None:
        with pytest.raises(ValueError, match="Pass attention_mask, or set config.pad_token_id"):
            model(ids)
    elif side == "right":  # which a causal memory reads too late
        assert_close(model(ids * mask).logits, alone)
    with pytest.raises(ValueError, match=r"Sequences \[1\] of this call have no token"):
        model(ids, attention_mask=mask * torch.tensor([[1], [0]]))


@pytest.mark.parametrize(
    "packed",
    [
        {"cu_seqlens": torch.tensor([0, 5, 12])},
        {"seq_idx": torch.tensor([[0] * 5 + [1] * 7])},
        {"attention_mask": torch.tensor([[1] * 5 + [2] * 7])},
    ],
    ids=lambda packed: "-".join(packed),
)
def test_packed_sequences_have_a_label_each(packed):
    model, labels = with_head(AutoModelForSequenceClassification), torch.tensor([2, 0])
    ids = torch.cat(ROWS)[None]
    output = model(ids, labels=labels, **packed)
    assert_close(output.logits, torch.cat([model(row[None]).logits for row in ROWS]))
    assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels).float(), FLOAT32)
    with pytest.raises(ValueError, match="labels are 1, and the call has 2 sequences"):
        model(ids, labels=labels[:1], **packed)


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
