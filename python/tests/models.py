"""Small models of Hugging Face Transformers with weights drawn at random.  SPDX-License-Identifier: MIT"""
import torch
import transformers as hf

_DECODER = dict(vocab_size=99, hidden_size=96, intermediate_size=128, num_hidden_layers=3, num_attention_heads=6,
                num_key_value_heads=2, head_dim=16, max_position_embeddings=512, pad_token_id=0, bos_token_id=1,
                eos_token_id=None)


def configs():
    """Name, class of the model, its configuration."""
    return {
        "BERT": (hf.BertForMaskedLM, hf.BertConfig(
            vocab_size=99, hidden_size=96, intermediate_size=128, num_hidden_layers=3, num_attention_heads=6,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0)),
        "Llama": (hf.LlamaForCausalLM, hf.LlamaConfig(**_DECODER)),
        "Gemma2": (hf.Gemma2ForCausalLM, hf.Gemma2Config(**_DECODER, sliding_window=24, query_pre_attn_scalar=16,
                                                       attn_logit_softcapping=0.05)),
        "Gemma3": (hf.Gemma3ForCausalLM, hf.Gemma3TextConfig(
            **_DECODER, sliding_window=24, layer_types=["sliding_attention", "full_attention", "sliding_attention"])),
        "Qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config(**_DECODER, use_sliding_window=True, sliding_window=32,
                                                     max_window_layers=1)),
        "T5": (hf.T5ForConditionalGeneration, hf.T5Config(
            vocab_size=99, d_model=96, d_kv=16, d_ff=128, num_layers=2, num_heads=6, dropout_rate=0.0,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=None)),
        "gpt-oss": (hf.GptOssForCausalLM, hf.GptOssConfig(
            **_DECODER, num_local_experts=2, num_experts_per_tok=1, sliding_window=24, rope_scaling=None)),
    }


def build(name, implementation):
    kind, config = configs()[name]
    config._attn_implementation = implementation
    torch.manual_seed(7)
    return kind(config).eval()
