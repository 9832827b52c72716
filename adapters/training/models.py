"""Models and tokenizers as each method trains them.

    lora, rslora, dora, qlora   low-rank updates of linear layers; qlora on a base held in NF4
    ia3                         learnt scales of keys, values and the feed-forward's inner state
    prefix, prompt              learnt virtual tokens, in every layer or before the first
    full                        every parameter

Bottleneck adapters (Houlsby et al.) are not here: PEFT has none, and the library that has, the
distribution `adapters`, takes the import name of this package. `benchmarks/methods` compares them.
"""

from pathlib import Path
from typing import Any

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from adapters.admission import WEIGHTS
from adapters.recipe import Recipe
from adapters.training.conversations import Conversation
from adapters.training.device import base_dtype, device
from adapters.training.job import Job
from adapters.training.packing import Example

REFERENCE = "ref"
"""The name, within a PEFT model, of the frozen copy of the adapter that is continued. TRL's."""


def tokenizer_of(base: Path) -> Any:
    """The base model's tokenizer; what it lacks for padding is its end token."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def prompt_text(tokenizer: Any, prompt: Conversation) -> str:
    """The prompt as the server's chat template makes it, ready for the answer."""
    messages = [message._asdict() for message in prompt]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def plain_prompt(tokenizer: Any, prompt: Conversation) -> str:
    """The same for a trainer whose tokenizer puts the beginning-of-text token itself."""
    text = prompt_text(tokenizer, prompt)
    begins = tokenizer("")["input_ids"]
    return text.removeprefix(tokenizer.bos_token) if begins else text


def encode(tokenizer: Any, prompt: Conversation, answer: str) -> Example:
    """Tokens of a prompt and of an answer that ends, both whole."""
    asked = tokenizer(prompt_text(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    answered = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return Example(tuple(asked), (*answered, tokenizer.eos_token_id))


def base_model(recipe: Recipe, base: Path) -> Any:
    """The base model; for qlora in NF4 with double quantisation (arXiv 2305.14314).

    On a CPU with AVX512-BF16, a 4-bit layer that is asked without gradients turns its weights into
    a layout for good that no gradient passes through. So a model to train is set not to.
    """
    dtype = base_dtype(recipe)
    options: dict[str, Any] = {"dtype": dtype}
    if recipe.method == "qlora":
        options["device_map"] = {"": device()}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    model = AutoModelForCausalLM.from_pretrained(base, **options)
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return model


def policy(job: Job) -> tuple[Any, Any]:
    """The model to train, and PEFT's configuration of what a trainer must still add to it."""
    model = base_model(job.recipe, job.base)
    if job.start is not None:
        return PeftModel.from_pretrained(model, job.start, is_trainable=True), None
    return model, peft_config(job.recipe)


def scorer(job: Job) -> tuple[Any, Any]:
    """The base model with a head that scores a text by its last token, and its PEFT method.

    With an adapter to start from, its weights are where training begins: what it knows of the task
    need not be learnt again from preferences (Ouyang et al., arXiv 2203.02155, 3.5).
    """
    options: dict[str, Any] = {"dtype": base_dtype(job.recipe), "num_labels": 1}
    model = AutoModelForSequenceClassification.from_pretrained(job.base, **options)
    if job.start is None:
        return model, peft_config(job.recipe, "SEQ_CLS")
    config = PeftConfig.from_pretrained(job.start)
    config.task_type, config.inference_mode = "SEQ_CLS", False
    scoring = get_peft_model(model, config)
    weights = get_peft_model_state_dict(scoring) | load_file(job.start / WEIGHTS)
    set_peft_model_state_dict(scoring, weights)
    return scoring, None


def reward_model(
    base: Path, directory: Path, tokenizer: Any, dtype: torch.dtype = torch.float32
) -> Any:
    """A trained reward model, frozen, on the device; its base's weights are held in `dtype`."""
    scored = AutoModelForSequenceClassification.from_pretrained(base, dtype=dtype, num_labels=1)
    scored.config.pad_token_id = tokenizer.pad_token_id
    return PeftModel.from_pretrained(scored, directory).eval().to(device())


def peft_config(recipe: Recipe, task: str = "CAUSAL_LM") -> Any:
    """PEFT's configuration of the recipe's method; None for full fine-tuning."""
    match recipe.method:
        case "full":
            return None
        case "ia3":
            return IA3Config(
                task_type=task,
                target_modules=["k_proj", "v_proj", "down_proj"],
                feedforward_modules=["down_proj"],
            )
        case "prefix":
            return PrefixTuningConfig(task_type=task, num_virtual_tokens=recipe.virtual_tokens)
        case "prompt":
            return PromptTuningConfig(task_type=task, num_virtual_tokens=recipe.virtual_tokens)
        case _:
            return LoraConfig(
                task_type=task,
                r=recipe.rank,
                lora_alpha=recipe.alpha,
                lora_dropout=recipe.dropout,
                target_modules=list(recipe.target_modules),
                use_rslora=recipe.method == "rslora",
                use_dora=recipe.method == "dora",
            )
