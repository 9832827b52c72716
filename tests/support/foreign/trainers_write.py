"""What trainers write around PEFT, or instead of it."""

import json

import numpy as np

from tests.support.foreign.case import (
    PREFIX,
    Case,
    Named,
    lora,
    ones,
    prefixed,
    renamed,
    stored,
)
from tests.support.foreign.configs import PEFT_0_7, PEFT_0_13, PEFT_0_15, PEFT_0_18, PEFT_0_21
from tests.support.foreign.peft_writes import WHOLE, Q
from tests.support.foreign.reasons import BARE_NAMES, MISPLACED, OTHER_BASE, OTHER_FILES

ALL = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
UNSLOTH_PATTERN = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"\.(?:q_proj|v_proj))|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp)"
    r"\.(?:(?:q_proj|v_proj)))"
)
UNSLOTH = PEFT_0_18 | {
    "auto_mapping": {
        "base_model_class": "LlamaForCausalLM",
        "parent_library": "transformers.models.llama.modeling_llama",
        "unsloth_fixed": True,
    },
    "base_model_name_or_path": "unsloth/tiny-bnb-4bit",
    "lora_dropout": 0,
    "target_modules": ALL,
}


def _with_files(tool: str, *names: str, says: str) -> Case:
    """A whole output folder, of which vLLM reads two files."""
    return Case(
        tool=tool, shape=f"its folder with {names[0]}", vllm="serves", says=says, why=OTHER_FILES,
        config=PEFT_0_18, tensors=lora(), extra=dict.fromkeys(names, b"{}"),
    )  # fmt: skip


UNSLOTH_CASES = [
    Case(tool="Unsloth", shape="every linear module, a quantised base's name", vllm="serves",
         config=UNSLOTH, tensors=lora("proj")),
    Case(tool="Unsloth", shape="the base's name in lower case", vllm="serves",
         config=UNSLOTH | {"base_model_name_or_path": "org/tiny-llama"}, tensors=lora("proj")),
    Case(tool="Unsloth", shape="target_modules as its pattern", vllm="serves",
         config=UNSLOTH | {"target_modules": UNSLOTH_PATTERN}, tensors=lora()),
    Case(tool="Unsloth 2024", shape="loftq_config null and its revision", vllm="serves",
         config=PEFT_0_7 | {"loftq_config": None, "revision": "unsloth"}, tensors=lora()),
    Case(tool="Unsloth", shape="continued pretraining with embeddings", vllm="refuses",
         says="modules_to_save", tensors=lora() | WHOLE,
         config=UNSLOTH | {"modules_to_save": ["lm_head", "embed_tokens"],
                           "target_modules": ["q_proj", "v_proj"]}),
    Case(tool="Unsloth", shape="a merged model instead of an adapter", vllm="refuses",
         says="The file is missing", config=None, tensors=None,
         extra={"model.safetensors": b"", "config.json": b"{}"}),
    Case(tool="Unsloth", shape="a base that nobody registered under this name", vllm="serves",
         says="made for base model 'unsloth/other-7b-bnb-4bit'", why=OTHER_BASE,
         config=UNSLOTH | {"base_model_name_or_path": "unsloth/other-7b-bnb-4bit"},
         tensors=lora("proj")),
]  # fmt: skip

AXOLOTL_CASES = [
    Case(tool="Axolotl", shape="lora_target_linear, fan_in_fan_out null, a local base",
         vllm="serves", tensors=lora("proj"),
         config=PEFT_0_15 | {"base_model_name_or_path": "/workspace/models/tiny",
                             "fan_in_fan_out": None, "target_modules": ALL}),
    Case(tool="Axolotl", shape="FSDP's wrappers in the names", vllm="ignores",
         says="_fsdp_wrapped_module", config=PEFT_0_15,
         tensors=renamed(lora(), ".self_attn", "._fsdp_wrapped_module.self_attn")),
    Case(tool="Axolotl", shape="torch_compile", vllm="ignores", says="_orig_mod",
         config=PEFT_0_15, tensors=prefixed(lora(), "_orig_mod.")),
    Case(tool="Axolotl", shape="DDP's wrapper in the names", vllm="ignores", says="'module'",
         config=PEFT_0_15, tensors=prefixed(lora(), "module.")),
    Case(tool="Axolotl", shape="DeepSpeed ZeRO-3 with nothing gathered", vllm="refuses",
         says="no LoRA tensors", config=PEFT_0_15, tensors={}),
    Case(tool="Axolotl", shape="DeepSpeed ZeRO-3 with empty tensors", vllm="refuses",
         says="is empty", config=PEFT_0_15,
         tensors={name: np.zeros(0, np.float32) for name in lora()}),
    _with_files("Axolotl", "config.json", "debug.log", "special_tokens_map.json",
                says="part of a tokenizer"),
    Case(tool="Axolotl", shape="a checkpoint that git cloned without LFS", vllm="refuses",
         says="Git LFS", config=PEFT_0_15,
         tensors=b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64
                 + b"\nsize 864521280\n"),
]  # fmt: skip

LLAMA_FACTORY_CASES = [
    Case(tool="LLaMA-Factory", shape="lora_target all with rsLoRA", vllm="serves",
         config=PEFT_0_15 | {"target_modules": ALL, "use_rslora": True}, tensors=lora("proj")),
    Case(tool="LLaMA-Factory", shape="a pattern that leaves the vision tower out", vllm="serves",
         config=PEFT_0_15 | {"target_modules": r"^(?!.*visual).*(?:q_proj|v_proj).*"},
         tensors=lora()),
    Case(tool="LLaMA-Factory", shape="a PiSSA checkpoint", vllm="refuses",
         says="changes the base model's weights", tensors=lora(),
         config=PEFT_0_15 | {"init_lora_weights": "pissa_niter_16"}),
    Case(tool="LLaMA-Factory", shape="pissa_converted", vllm="serves", tensors=lora(rank=8),
         config=PEFT_0_15 | {"r": 8, "lora_alpha": 16, "init_lora_weights": True}),
    Case(tool="LLaMA-Factory", shape="additional_target", vllm="refuses", says="modules_to_save",
         config=PEFT_0_15 | {"modules_to_save": ["embed_tokens", "lm_head"]},
         tensors=lora() | WHOLE),
    _with_files("LLaMA-Factory", "training_args.bin", "trainer_log.jsonl", "training_loss.png",
                says="pickle"),
    _with_files("LLaMA-Factory", "value_head.safetensors", says="not accepted"),
]  # fmt: skip

TRL_CASES = [
    Case(tool="TRL", shape="SFT", vllm="serves", config=PEFT_0_18, tensors=lora(),
         dtype="BF16"),
    _with_files("TRL", "training_args.bin", "chat_template.jinja", says="code or a template"),
    _with_files("TRL", "reference/adapter_config.json", "reference/adapter_model.safetensors",
                says="subdirectory"),
    Case(tool="TRL", shape="a reward model", vllm="serves", classifies=True,
         config=PEFT_0_18 | {"task_type": "SEQ_CLS", "modules_to_save": ["score"]},
         tensors=lora() | {f"{PREFIX}score.weight": ones(1, 64)}),
    Case(tool="TRL", shape="added tokens trained alone", vllm="refuses",
         says="trained token embeddings", config=PEFT_0_18 | {"trainable_token_indices": [258]},
         tensors=lora() | {
             f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta":
                 ones(1, 64)}),
]  # fmt: skip

TORCHTUNE = {
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"],
    "peft_type": "LORA",
    "base_model_name_or_path": "org/Tiny-Llama",
}
TORCHTUNE_CASES = [
    Case(tool="torchtune", shape="its five keys", vllm="serves", config=TORCHTUNE, tensors=lora(),
         dtype="BF16"),
    Case(tool="torchtune 0.2", shape="three keys, without peft_type", vllm="serves",
         says="peft_type is absent", why=BARE_NAMES, tensors=lora(),
         config={key: TORCHTUNE[key] for key in ("r", "lora_alpha", "target_modules")}),
    Case(tool="torchtune", shape="its own names", vllm="refuses", says="as torchtune names it",
         config=TORCHTUNE, tensors={
             "layers.0.attn.q_proj.lora_a.weight": ones(4, 64),
             "layers.0.attn.q_proj.lora_b.weight": ones(64, 4)}),
    Case(tool="torchtune", shape="its own copy beside PEFT's", vllm="serves", says="pickle",
         why=OTHER_FILES, config=TORCHTUNE, tensors=lora(),
         extra={"adapter_model.pt": b"PK\x03\x04"}),
    Case(tool="torchtune", shape="magnitudes of DoRA", vllm="refuses", says="DoRA",
         config=TORCHTUNE | {"use_dora": True},
         tensors=lora() | {f"{Q}.lora_magnitude_vector": ones(64)}),
]  # fmt: skip


def _mlx(tensors: Named) -> Named:
    """MLX's names and orientation."""
    return {
        name.removeprefix(PREFIX).replace(".lora_A.weight", ".lora_a").replace(
            ".lora_B.weight", ".lora_b"
        ): np.ascontiguousarray(array.T)
        for name, array in tensors.items()
    }  # fmt: skip


MLX = {
    "adapter_path": "adapters", "batch_size": 4, "fine_tune_type": "lora", "iters": 1000,
    "lora_parameters": {"rank": 4, "dropout": 0.0, "scale": 2.0}, "model": "mlx-community/tiny",
    "num_layers": 2, "train": True,
}  # fmt: skip
MLX_CASES = [
    Case(tool="MLX", shape="its folder", vllm="refuses", says="MLX adapter", config=MLX,
         tensors=None, extra={"adapters.safetensors": stored(_mlx(lora())),
                              "0000100_adapters.safetensors": stored(_mlx(lora()))}),
    Case(tool="MLX 2023", shape="its older configuration", vllm="refuses", says="MLX adapter",
         config={"lora_layers": 16, "lora_parameters": {"rank": 4}, "model": "tiny"}, tensors=None,
         extra={"adapters.npz": b"PK\x03\x04"}),
    Case(tool="MLX", shape="its checkpoints", vllm="serves", says="MLX adapter", why=OTHER_FILES,
         config=PEFT_0_18, tensors=lora(), extra={"0000100_adapters.safetensors": b"{}"}),
    Case(tool="MLX", shape="renamed by hand", vllm="refuses", says="as MLX names it",
         config=PEFT_0_18, tensors=_mlx(lora())),
    Case(tool="MLX", shape="PEFT's names, not transposed", vllm="serves", says="transposed",
         why=MISPLACED, config=PEFT_0_18,
         tensors={n: np.ascontiguousarray(a.T) for n, a in lora("v_proj", "q_proj").items()}),
    Case(tool="Unsloth on MLX", shape="exported for PEFT", vllm="serves", config=PEFT_0_21,
         tensors=lora(), dtype="F16"),
]  # fmt: skip

SWIFT = PEFT_0_7 | {
    "base_model_name_or_path": "/root/.cache/modelscope/hub/org/tiny",
    "enable_lora": None, "lora_dtype": None, "lorap_emb_lr": 1e-06, "lorap_lr_ratio": 16.0,
    "model_key_mapping": None, "use_merged_linear": False, "use_qa_lora": False,
}  # fmt: skip
SWIFT_CASES = [
    Case(tool="ms-swift 1", shape="LoRA+ among the configuration", vllm="serves", config=SWIFT,
         tensors=lora()),
    Case(tool="ms-swift 1", shape="lora_dtype", vllm="serves", tensors=lora(), dtype="F16",
         config=SWIFT | {"lora_dtype": "fp16"}),
    Case(tool="ms-swift", shape="all-linear as its pattern", vllm="serves", tensors=lora("proj"),
         config=PEFT_0_15 | {"target_modules": r"^(model(?=\.).*\.(up_proj|k_proj|gate_proj|o_proj"
                                               r"|down_proj|q_proj|v_proj))$"}),
    _with_files("ms-swift", "additional_config.json", "args.json", says="not accepted"),
    Case(tool="ms-swift 1", shape="the adapter in default/", vllm="refuses",
         says="Push the folder that holds", config=None, tensors=None,
         extra={"default/adapter_config.json": json.dumps(SWIFT).encode(),
                "default/adapter_model.safetensors": stored(lora())}),
    Case(tool="ms-swift", shape="FSDP's state_dict() as it is", vllm="refuses",
         says="state_dict() was saved as it is", config=PEFT_0_13,
         tensors=renamed(lora(), ".weight", ".default.weight")),
]  # fmt: skip

OTHER_CASES = [
    Case(tool="mistral-finetune", shape="the names of Mistral's own format", vllm="refuses",
         says="lacks the prefix", config=PEFT_0_18,
         tensors={"layers.0.attention.wq.lora_A.weight": ones(4, 64),
                  "layers.0.attention.wq.lora_B.weight": ones(64, 4)}),
    Case(tool="a sharding uploader", shape="weights in two files", vllm="refuses",
         says="one of several parts", config=PEFT_0_18, tensors=None,
         extra={f"adapter_model-0000{n}-of-00002.safetensors": stored(lora(layers=[n - 1]))
                for n in (1, 2)}),
    Case(tool="a quantising trainer", shape="GPTQ's name of the base", vllm="serves",
         says="made for base model 'TheBloke/Tiny-GPTQ'", why=OTHER_BASE,
         config=PEFT_0_18 | {"base_model_name_or_path": "TheBloke/Tiny-GPTQ"}, tensors=lora()),
    Case(tool="an uploader", shape="no base at all", vllm="serves", tensors=lora(),
         config=PEFT_0_18 | {"base_model_name_or_path": None}),
    Case(tool="an uploader on Windows", shape="a base on drive D", vllm="serves", tensors=lora(),
         config=PEFT_0_18 | {"base_model_name_or_path": r"D:\models\tiny"}),
]  # fmt: skip

CASES = [
    *UNSLOTH_CASES, *AXOLOTL_CASES, *LLAMA_FACTORY_CASES, *TRL_CASES, *TORCHTUNE_CASES,
    *MLX_CASES, *SWIFT_CASES, *OTHER_CASES,
]  # fmt: skip
