"""Sequences packed in a row of the decoder's batch: in every format of collators and trainers they are kept
separate, or refused."""

import copy

import pytest
import torch
from transformers import DataCollatorWithFlattening

from tests.decoders import ENTRIES, assert_close, padded, tiny, tokens
from ttr.laws.tolerances import FLOAT32
from ttr.models import TTRCache
from ttr.models.packing import PaddingLast, packing_of

LENGTHS = (4, 1, 6)
BOUNDS = torch.tensor([0, 4, 5, 11])
POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS])[None]
NUMBERS = torch.tensor([[0] * 4 + [1] + [2] * 6])
ONES = torch.ones(1, 11, dtype=torch.int64)
LAYERS = (
    "gated-deltanet",
    "softmax-attention",  # rotates by position
    "softmax-attention-qknorm",
    "ttt-linear",
    "rwkv7",  # token shift
)


def square(numbers):
    """The columns that every token reads, [B, 1, T, T], by the numbers of their sequences, 0 at padding."""
    return ((numbers[:, :, None] == numbers[:, None, :]) & (numbers > 0)[:, None, :]).tril()[:, None]


def added(square):
    """The same as numbers that are added to logits."""
    return torch.zeros(square.shape).masked_fill(~square, torch.finfo(torch.float32).min)


SPELLINGS = {
    "position_ids": {"position_ids": POSITIONS},
    "position_ids and a full mask": {"position_ids": POSITIONS.int(), "attention_mask": ONES},
    "positions from other numbers": {"position_ids": POSITIONS + torch.tensor([7] * 4 + [2] + [5] * 6)},
    "positions of one axis": {"position_ids": POSITIONS[0]},
    "positions of three axes": {"position_ids": POSITIONS.expand(3, 1, 11)},
    "positions of an image": {  # of 2 x 2 patches, after one token of text
        "position_ids": torch.tensor(
            [
                [0, 1, 2, 3, 0, 0, 1, 1, 1, 1, 3],
                [0, 1, 2, 3, 0, 0, 1, 1, 2, 2, 3],
                [0, 1, 2, 3, 0, 0, 1, 2, 1, 2, 3],
            ]
        )[:, None]
    },
    "cu_seqlens": {"cu_seqlens": BOUNDS},
    "flash": {
        "cu_seq_lens_q": BOUNDS.int(),
        "cu_seq_lens_k": BOUNDS.int(),
        "max_length_q": 6,
        "max_length_k": 6,
    },
    "cu_seq_lens_q": {"cu_seq_lens_q": BOUNDS},
    "seq_idx": {"seq_idx": NUMBERS.int()},
    "numbers in the mask": {"attention_mask": NUMBERS + 1},
    "a square mask": {"attention_mask": square(NUMBERS + 1)},
    "an added mask": {"attention_mask": added(square(NUMBERS + 1))},
    "all": {
        "position_ids": POSITIONS,
        "seq_idx": NUMBERS,
        "attention_mask": NUMBERS + 1,
        "cu_seqlens": BOUNDS,
        "cu_seq_lens_q": BOUNDS,
    },
}


def outcome(model, rows, inputs=None, real=...):
    """Logits of every row, the loss of all tokens, and its gradients: from one call, of whose logits those at
    ``real`` tokens count, or from one call per row."""
    model.zero_grad()
    if inputs is None:
        outputs = [model(row[None], labels=row[None]) for row in rows]
        counted = [(out.loss, len(row) - 1) for out, row in zip(outputs, rows, strict=True) if len(row) > 1]
        logits, loss = (
            torch.cat([out.logits[0] for out in outputs]),
            sum(loss * n for loss, n in counted) / sum(n for _, n in counted),
        )
    else:
        output = model(**inputs, labels=inputs["input_ids"])
        logits, loss = output.logits[real].flatten(0, -2), output.loss
    loss.backward()
    return (
        logits.detach(),
        loss.detach(),
        {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
    )


def assert_separate(model, rows, inputs, real=...):
    logits, loss, gradients = outcome(model, rows, inputs, real)
    wanted_logits, wanted_loss, wanted = outcome(model, rows)
    assert_close(logits, wanted_logits)
    assert_close(loss, wanted_loss, FLOAT32)  # transformers takes the loss in float32
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert_close(gradients[name], gradient, FLOAT32)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_keeps_sequences_apart(spelling):
    rows = [tokens(length) for length in LENGTHS]
    assert_separate(tiny(LAYERS), rows, {"input_ids": torch.cat(rows)[None], **SPELLINGS[spelling]})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"return_flash_attn_kwargs": True},
        {"return_flash_attn_kwargs": True, "return_position_ids": False},
        {"return_seq_idx": True, "return_position_ids": False},
    ],
    ids=str,
)
def test_the_collator_of_transformers_keeps_sequences_apart(settings):
    model, rows = tiny(), [tokens(length) for length in LENGTHS]
    batch = DataCollatorWithFlattening(**settings)([{"input_ids": row} for row in rows])
    with torch.no_grad():
        out, wanted = model(**batch), model(batch["input_ids"], cu_seqlens=BOUNDS, labels=batch["input_ids"])
    assert torch.equal(out.logits, wanted.logits) and torch.equal(out.loss, wanted.loss)


PADDED_SPELLINGS = {
    "position_ids": lambda positions, numbers: {
        "position_ids": positions,
        "attention_mask": numbers.clamp(max=1),
    },
    "positions of three axes": lambda positions, numbers: {
        "position_ids": (positions + 5).expand(3, -1, -1),
        "attention_mask": numbers > 0,
    },
    "seq_idx": lambda positions, numbers: {"seq_idx": numbers, "attention_mask": numbers.clamp(max=1)},
    "numbers in the mask": lambda positions, numbers: {"attention_mask": numbers},
    "a square mask": lambda positions, numbers: {"attention_mask": square(numbers)},
    "an added mask": lambda positions, numbers: {
        "attention_mask": added(square(numbers)),
        "position_ids": positions,
    },
}


@pytest.mark.parametrize("spelling", PADDED_SPELLINGS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_packed_rows_may_be_padded(side, spelling):
    packed = [[tokens(3), tokens(2)], [tokens(4)], [tokens(1), tokens(1), tokens(5)]]
    ids, _ = padded([torch.cat(parts) for parts in packed], side)
    numbers, mask = padded(
        [torch.cat([torch.full_like(part, i + 1) for i, part in enumerate(parts)]) for parts in packed], side
    )
    positions, _ = padded([torch.cat([torch.arange(len(part)) for part in parts]) for parts in packed], side)
    boundaries = PADDED_SPELLINGS[spelling](positions, numbers * mask)
    rows = [part for parts in packed for part in parts]
    assert_separate(tiny(LAYERS), rows, {"input_ids": ids, **boundaries}, mask.bool())


def test_boundaries_may_include_padding():
    rows = [tokens(3), tokens(2), tokens(0), tokens(4)]
    ids, mask = torch.full((1, 13), 3), torch.zeros(1, 13, dtype=torch.int64)
    for row, start in zip(rows, (1, 5, 8, 8)):
        ids[0, start : start + len(row)], mask[0, start : start + len(row)] = row, 1
    bounds = torch.tensor([0, 5, 8, 8, 13])
    model = tiny(LAYERS)
    assert_separate(
        model, rows, {"input_ids": ids, "attention_mask": mask, "cu_seqlens": bounds}, mask.bool()
    )
    with torch.no_grad():
        cache = model(ids, attention_mask=mask, cu_seqlens=bounds, use_cache=True).past_key_values
        following = tokens(4, 2)
        logits = model(following, past_key_values=cache).logits
        for i, row in enumerate(rows):
            assert_close(logits[i], model(torch.cat([row, following[i]])[None]).logits[0, -2:])


@pytest.mark.parametrize("further", [1, 0])
def test_a_square_mask_may_cover_earlier_calls(further):
    model, rows, following = tiny(LAYERS), [tokens(4), tokens(2)], [tokens(further), tokens(3)]
    (ids, mask), (tail, tail_mask) = padded(rows, "left"), padded(following, "right")
    whole = square(torch.cat([mask, tail_mask], dim=1))
    with torch.no_grad():
        cache = model(ids, attention_mask=whole[..., :4, :4], use_cache=True).past_key_values
        with pytest.raises(ValueError, match="those of earlier calls included"):
            model(tail, attention_mask=whole[..., 4:, 4:], past_key_values=cache)
        logits = model(tail, attention_mask=whole[..., 4:, :], past_key_values=cache).logits
        for i, (row, new) in enumerate(zip(rows, following)):
            assert_close(logits[i, : len(new)], model(torch.cat([row, new])[None]).logits[0, len(row) :])


FURTHER = torch.tensor([[1, 2, 2, 2, 2, 2, 3]])
CONTINUATIONS = (
    {
        "cu_seqlens": torch.tensor([0, 1, 6, 7]),
        "position_ids": torch.tensor([[5, 2, 3, 4, 5, 6, 7]]),  # the last goes on where the second ends
    },
    {"position_ids": torch.tensor([[5, 2, 3, 4, 5, 6, 9]])},
    {"seq_idx": FURTHER},
    {"attention_mask": FURTHER},
    # columns of the first call, of the second, and of this one
    {
        "attention_mask": square(torch.cat([NUMBERS + 1, torch.tensor([[1, 2, 3]]), FURTHER], dim=1))[
            ..., 14:, :
        ]
    },
)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_cache_goes_on_with_every_packed_sequence(spelling):
    model, rows, following = tiny(LAYERS), [tokens(length) for length in LENGTHS], tokens(3, 1)
    with torch.no_grad():
        cache = model(
            torch.cat(rows)[None], **SPELLINGS[spelling], past_key_values=TTRCache(len(LAYERS))
        ).past_key_values
        step = model(following, past_key_values=cache, position_ids=torch.tensor([[4], [1], [6]])).logits
        for i, row in enumerate(rows):
            assert_close(step[i], model(torch.cat([row, following[i]])[None]).logits[0, -1:])
        tail = tokens(1, 7)
        for going_on in CONTINUATIONS:
            logits = model(tail, past_key_values=copy.deepcopy(cache), **going_on).logits
            for i, (start, stop) in enumerate([(0, 1), (1, 6), (6, 7)]):
                whole = torch.cat([rows[i], following[i], tail[0, start:stop]])
                assert_close(logits[0, start:stop], model(whole[None]).logits[0, start - stop :])


@pytest.mark.parametrize(
    "boundaries",
    [
        {"position_ids": torch.arange(7, 18)[None]},
        {"seq_idx": torch.full((1, 11), 3)},
        {"attention_mask": ONES.double()},
        {"attention_mask": ONES.bool(), "position_ids": torch.arange(11)[None]},
        {"attention_mask": square(ONES)},
        {"attention_mask": square(ONES).long()},
        {"attention_mask": added(square(ONES))},
        {"cu_seqlens": BOUNDS[[0, 3]]},
        {"position_ids": torch.arange(11)[None], "output_attentions": False},
        {"cache_position": torch.arange(11), "return_dict": True, "use_cache": False},
    ],
    ids=lambda boundaries: "-".join(boundaries),
)
def test_one_sequence_in_other_words_is_one_sequence(boundaries):
    model, ids = tiny(), tokens(1, 11)
    with torch.no_grad():
        assert_close(model(ids, **boundaries).logits, model(ids).logits)


@pytest.mark.parametrize("positions", [[[0, 1, 9, 3, 4]], [[0, 1, 9, 2, 3]]])
def test_positions_may_count_a_hole_or_not(positions):
    model, ids, mask = tiny(), tokens(1, 5), torch.tensor([[1, 1, 0, 1, 1]])
    with torch.no_grad():
        out = model(ids, attention_mask=mask, position_ids=torch.tensor(positions), labels=ids)
        assert torch.equal(out.logits, model(ids, attention_mask=mask).logits)
        # the token behind the hole does not follow the one before it
        loss = torch.nn.functional.cross_entropy(out.logits[0, [0, 3]].float(), ids[0, [1, 4]])
        assert_close(out.loss, loss, FLOAT32)


FULL, PADDED = torch.ones(1, 6, dtype=torch.int64), torch.tensor([[0, 1, 1, 1, 1, 1]])
HALF = torch.tensor([[1, 1, 1, 2, 2, 2]])
RESTART, RISE = torch.tensor([[0, 1, 2, 0, 1, 2]]), torch.arange(6)[None]
HALVES, THIRDS = torch.tensor([0, 3, 6]), torch.tensor([0, 2, 4, 6])
REFUSED = [
    ({"position_ids": RESTART - 1}, "must not be negative"),
    ({"position_ids": RESTART.expand(3, 2, 6)}, r"position_ids must be int64 or int32 of shape.*\[3, 2, 6\]"),
    ({"position_ids": RESTART[:, :5]}, "position_ids must be int64 or int32 of shape"),
    ({"position_ids": RESTART.float()}, "position_ids must be int64 or int32.*float32"),
    ({"position_ids": RESTART, "cu_seqlens": THIRDS}, "cu_seqlens and position_ids contradict"),
    ({"position_ids": RISE, "cu_seqlens": HALVES}, "cu_seqlens and position_ids contradict"),
    (
        {"position_ids": RESTART, "seq_idx": torch.tensor([[0, 0, 1, 1, 1, 1]])},
        "seq_idx and position_ids contradict",
    ),
    ({"position_ids": RESTART, "seq_idx": FULL}, "seq_idx and position_ids contradict"),
    (
        {"cu_seq_lens_q": HALVES, "cu_seq_lens_k": THIRDS},
        "cu_seq_lens_q and cu_seq_lens_k give different boundaries",
    ),
    (
        {"cu_seqlens": HALVES, "cu_seq_lens_q": torch.tensor([0, 3, 3, 6])},
        "cu_seqlens and cu_seq_lens_q give different boundaries",
    ),
    ({"cu_seq_lens_q": torch.tensor([0, 3, 5])}, "must rise from 0 to T = 6"),
    ({"cu_seq_lens_k": [0, 3, 6]}, "must be a tensor of boundaries, got list"),
    (
        {"seq_idx": torch.tensor([[0, 0, 1, 1, 0, 0]])},
        "seq_idx must number the sequences of a row in rising order",
    ),
    ({"seq_idx": torch.tensor([[0, 0, 1, 1, -1, -1]])}, "seq_idx must number.*Mark padding by 0"),
    ({"seq_idx": torch.zeros(1, 5, dtype=torch.int64)}, "seq_idx must be int64 or int32 of shape"),
    ({"seq_idx": torch.ones(1, 6, dtype=torch.bool)}, "seq_idx must be int64 or int32.*bool"),
    ({"attention_mask": torch.tensor([[2, 2, 2, 1, 1, 1]])}, "attention_mask must number"),
    ({"attention_mask": FULL - 1.5}, "must hold 1 at tokens and 0 at padding.*added to logits"),
    ({"attention_mask": torch.zeros(1, 6)}, "must hold 1 at tokens and 0 at padding.*added to logits"),
    ({"attention_mask": torch.zeros(1, 6).log()}, "must hold 1 at tokens and 0 at padding.*added to logits"),
    ({"attention_mask": torch.ones(1, 8)}, r"attention_mask must have shape \[1, 6\].*got \[1, 8\]"),
    ({"attention_mask": torch.zeros(1, 1, 6, 6)}, "up to itself.*and nothing else"),
    ({"attention_mask": square(FULL).tril().triu(-2)}, "up to itself.*and nothing else"),
    (
        {"attention_mask": square(HALF) & (torch.arange(6) != torch.arange(-1, 5)[:, None])},
        "up to itself.*and nothing else",
    ),
    ({"attention_mask": added(square(HALF)) - 1}, "up to itself.*and nothing else"),
    ({"attention_mask": square(HALF).expand(1, 2, 6, 6)}, r"must have shape \[1, 1, 6, 6\].*\[1, 2, 6, 6\]"),
    (
        {"attention_mask": torch.nn.functional.pad(square(HALF), (3, 0), value=True)},
        "up to itself.*and nothing else",
    ),
    ({"attention_mask": square(HALF), "position_ids": RISE}, "attention_mask and position_ids contradict"),
    ({"attention_mask": {"full_attention": FULL}}, "attention_mask must have shape.*got dict"),
    ({"atention_mask": PADDED}, "This model does not read 'atention_mask'.*holds a Tensor.*correct its name"),
    ({"cu_seq_lens": [0, 3, 6]}, "This model does not read 'cu_seq_lens'.*holds a list"),
    ({"labels": torch.zeros(1, 5, dtype=torch.int64)}, "labels have shape"),
]
CONTINUED = [
    (
        {"position_ids": RESTART},
        "2 sequences by position_ids, and the cache holds the states of 1.*cu_seqlens",
    ),
    (
        {"position_ids": torch.tensor([[3, 4, 5, 0, 1, 2]])},
        "2 sequences by position_ids, and the cache",
    ),
    ({"seq_idx": torch.tensor([[0, 0, 0, 1, 1, 1]])}, "2 sequences by seq_idx, and the cache"),
    ({"attention_mask": HALF}, "2 sequences by attention_mask, and the cache"),
    ({"attention_mask": square(HALF)}, "2 sequences by attention_mask, and the cache"),
    ({"cu_seqlens": HALVES}, "holds the states of 1 sequences, and the call has 2"),
    ({"cu_seqlens": HALVES, "position_ids": RESTART}, "holds the states of 1 sequences, and the call has 2"),
    ({"position_ids": RISE}, "begin a sequence at 0, but the cache continues"),
]


@pytest.mark.parametrize(
    ("boundaries", "words", "continued"),
    [(*case, False) for case in REFUSED] + [(*case, True) for case in CONTINUED],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_what_is_not_understood_is_a_sentence(boundaries, words, continued):
    model, ids = tiny(), tokens(1, 6)
    with torch.no_grad():
        cache = model(tokens(1, 3), use_cache=True).past_key_values
        before = copy.deepcopy(cache)
        with pytest.raises(ValueError, match=words):
            model(ids, **boundaries, past_key_values=cache if continued else None)
        assert torch.equal(
            model(ids, past_key_values=cache).logits, model(ids, past_key_values=before).logits
        )


def test_labels_are_of_the_sequences_of_the_call_that_goes_on():
    model, ids = tiny(), tokens(1, 8)
    with torch.no_grad():
        cache = model(ids[:, :3], use_cache=True).past_key_values
        loss = model(
            ids[:, 3:], past_key_values=cache, position_ids=torch.arange(3, 8)[None], labels=ids[:, 3:]
        ).loss
        whole = model(ids).logits[:, 3:]
        assert_close(loss, torch.nn.functional.cross_entropy(whole[0, :-1].float(), ids[0, 4:]), FLOAT32)


@pytest.mark.parametrize(
    "boundaries",
    [
        {"position_ids": POSITIONS[:, :0]},
        {"attention_mask": ONES[:, :0]},
        {"seq_idx": NUMBERS[:, :0]},
        {"cu_seqlens": BOUNDS[:1]},
        {"cu_seqlens": BOUNDS[[0, 0, 0]]},
    ],
    ids=lambda boundaries: "-".join(boundaries),
)
def test_nothing_is_read_from_no_tokens(boundaries):
    with torch.no_grad():
        assert tiny()(tokens(1, 0), **boundaries).logits.shape == (1, 0, 11)


def test_shifted_labels_alone_have_a_loss():
    model, ids = tiny(), tokens(2, 6)
    shifted = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    assert torch.equal(model(ids, shift_labels=shifted).loss, model(ids, labels=ids).loss)


@torch.no_grad()
@pytest.mark.parametrize("name", ENTRIES)
def test_padding_behind_the_tokens_is_padding_left_out(name):
    block = tiny(name).model.layers[0]
    x, mask = torch.randn(3, 9, 16).double(), torch.ones(3, 9, dtype=torch.int64)
    mask[0, :4] = mask[1, 2] = mask[1, -2:] = 0
    left_out, behind = packing_of((3, 9), attention_mask=mask), PaddingLast((3, 9), mask.bool())
    assert_close(
        behind.unpack(block(behind.pack(x))),
        left_out.unpack(block(left_out.pack(x), cu_seqlens=left_out.cu_seqlens)),
    )


def test_a_mask_that_tells_another_past_is_noticed(monkeypatch):
    model, ids, mask, told = tiny(), tokens(2, 7), torch.ones(2, 7, dtype=torch.int64), []
    monkeypatch.setattr("ttr.models.spellings.logger.warning_once", told.append)
    mask[0, 1] = 0
    with torch.no_grad():
        cache = model(ids[:, :4], attention_mask=mask[:, :4], use_cache=True).past_key_values
        model(ids[:, 4:], attention_mask=mask, past_key_values=copy.deepcopy(cache))
        model(ids[:, 4:], attention_mask=mask[:, 4:], past_key_values=copy.deepcopy(cache))
        assert not told
        model(ids[:, 4:], attention_mask=torch.ones_like(mask), past_key_values=cache)
    assert (
        len(told) == 1 and "other tokens in the columns of earlier calls than the cache has read" in told[0]
    )
