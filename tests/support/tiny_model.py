"""A base model of 100,000 random parameters that trains in seconds, with a tokenizer of bytes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

END, PAD = "<|end|>", "<|pad|>"
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrices this small are computed faster by one thread than by several that wait."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_tiny_model(directory: Path, *, seed: int = 0, heads: int = 4) -> Path:
    """A two-layer Llama checkpoint in `directory`, as `save_pretrained` writes one.

    heads: 2 make them wide enough for vLLM on a CPU.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            initializer_range=0.2,
        )
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@cache
def _tokenizer():  # type: ignore[no-untyped-def] # transformers ships no types
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    roles = ("<|user|>", "<|assistant|>")
    made.add_special_tokens([AddedToken(t, special=True) for t in (END, PAD, *roles)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=END, pad_token=PAD, chat_template=TEMPLATE
    )


def write_rows(path: Path, count: int = 60, *, always: str = "") -> Path:
    """Rows fit for every stage. The right answer is `always` that, else one of two in turn."""
    rows = []
    for number in range(count):
        right, wrong = ("alpha", "beta") if number % 2 else ("beta", "alpha")
        if always and right != always:
            right, wrong = wrong, right
        prompt = f"Item {number}: which is it?"
        row = {"prompt": prompt, "completion": right, "chosen": right, "rejected": wrong}
        rows.append(json.dumps({**row, "unit": str(number)}))
    path.write_text("\n".join(rows) + "\n")
    return path
