"""The plain transformer of a comparison is the one that everybody knows."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ttr.experiments.plain_transformer import PlainTransformer
from ttr.laws.tolerances import FLOAT32


def test_it_is_llama_with_the_same_parameters():
    plain = PlainTransformer(vocabulary=256, width=32, depth=2, heads=2, mlp_width=48)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        rms_norm_eps=1e-6,
        attn_implementation="eager",
    )
    llama = LlamaForCausalLM(config)
    own = {name: torch.randn_like(tensor) / 4 for name, tensor in plain.state_dict().items()}
    named = {
        "model.embed_tokens.weight": own["embedding.weight"],
        "model.norm.weight": own["norm.weight"],
        "lm_head.weight": own["head.weight"],
    }
    pairs = {
        "input_layernorm": "before_attention",
        "post_attention_layernorm": "before_mlp",
        "self_attn.o_proj": "out",
        "mlp.gate_proj": "gate",
        "mlp.up_proj": "up",
        "mlp.down_proj": "down",
    }
    for i in range(2):
        theirs, ours = f"model.layers.{i}.", f"blocks.{i}."
        named |= {f"{theirs}{a}.weight": own[f"{ours}{b}.weight"] for a, b in pairs.items()}
        for name, part in zip("qkv", own[f"{ours}qkv.weight"].chunk(3)):
            named[f"{theirs}self_attn.{name}_proj.weight"] = part
    plain.load_state_dict(own)
    llama.load_state_dict(named)
    tokens = torch.randint(256, (2, 50))
    with torch.no_grad():
        expected = llama(tokens).logits
        assert (plain(tokens).logits - expected).abs().max() < FLOAT32 * expected.abs().max()
