"""What PEFT itself writes: old and new versions, initialisations, options, other methods."""

import numpy as np

from tests.support.foreign.case import (
    LLAMA,
    PREFIX,
    Case,
    Named,
    lora,
    ones,
    pair,
    prefixed,
    renamed,
)
from tests.support.foreign.configs import (
    PEFT_0_2,
    PEFT_0_4,
    PEFT_0_7,
    PEFT_0_13,
    PEFT_0_15,
    PEFT_0_18,
    PEFT_0_21,
    without,
)
from tests.support.foreign.reasons import (
    BARE_NAMES,
    EMBEDDINGS,
    NAMELESS,
    NO_HEAD,
    OTHERS_ADAPTERS,
    PATTERNS,
    PICKLE,
    UNKNOWN,
)

Q = f"{PREFIX}model.layers.0.self_attn.q_proj"
HEAD = pair(f"{PREFIX}lm_head", 260, 64)
HEAD_COPY = {f"{PREFIX}lm_head.base_layer.weight": ones(260, 64)}
EMBEDDING = {
    f"{PREFIX}model.embed_tokens.lora_embedding_A": np.full((4, 260), 0.02, np.float32),
    f"{PREFIX}model.embed_tokens.lora_embedding_B": np.full((64, 4), 0.02, np.float32),
    f"{PREFIX}model.embed_tokens.base_layer.weight": ones(260, 64),
}
WHOLE = {
    f"{PREFIX}lm_head.weight": ones(260, 64),
    f"{PREFIX}model.embed_tokens.weight": ones(260, 64),
}
EVA = {"rho": 2.0, "tau": 0.99, "use_label_mask": True, "label_mask_value": -100}
CORDA = {"corda_method": "kpm", "cache_file": None, "verbose": False}


def _like(shape: str, **changes: object) -> Case:
    """The newest version's configuration with other values, admitted and served."""
    return Case(tool="PEFT", shape=shape, vllm="serves", config=PEFT_0_21 | changes, tensors=lora())


VERSIONS = [
    Case(tool=f"PEFT {version}", shape="defaults", vllm="serves", config=config, tensors=lora())
    for version, config in {
        "0.2": PEFT_0_2,
        "0.4": PEFT_0_4,
        "0.7": PEFT_0_7,
        "0.13": PEFT_0_13,
        "0.15": PEFT_0_15,
        "0.18": PEFT_0_18,
        "0.21": PEFT_0_21,
    }.items()
] + [
    Case(tool="PEFT 0.2", shape="merge_weights and fan_in_fan_out on linear layers", vllm="serves",
         config=PEFT_0_2 | {"merge_weights": True, "fan_in_fan_out": True}, tensors=lora()),
    Case(tool="PEFT 0.2", shape="a part of a fused layer (enable_lora)", vllm="refuses",
         says="enable_lora", tensors=pair(f"{PREFIX}transformer.h.0.attn.c_attn", 128, 64),
         config=PEFT_0_2 | {"enable_lora": [True, False, True], "target_modules": ["c_attn"]}),
    Case(tool="PEFT 0.2", shape="a pickle only", vllm="serves", says="pickle", why=PICKLE,
         config=PEFT_0_2, tensors=lora(), pickled=True),
    Case(tool="PEFT 0.2", shape="a pickle that runs code", vllm="refuses", says="pickle",
         config=PEFT_0_2, tensors=None,
         extra={"adapter_model.bin": b"cos\nsystem\n(S'true'\ntR."}),
    Case(tool="PEFT 0.5", shape="a pickle beside the safetensors", vllm="serves", says="pickle",
         why=PICKLE, config=PEFT_0_4, tensors=lora(), extra={"adapter_model.bin": b"\x80\x02}."}),
    Case(tool="a newer PEFT", shape="unknown keys without a value", vllm="serves",
         config=PEFT_0_21 | {"of_next_year": None, "also": False, "more": {}}, tensors=lora()),
    Case(tool="a newer PEFT", shape="an unknown key with a value", vllm="serves",
         says="'topk' is not understood", why=UNKNOWN, config=PEFT_0_21 | {"topk": 4},
         tensors=lora()),
]  # fmt: skip

TARGETS = [
    _like("target_modules null", target_modules=None),
    _like("target_modules empty, as beside target_parameters", target_modules=[]),
    _like("target_modules all-linear", target_modules="all-linear"),
    _like("target_modules as full paths", target_modules=sorted(
        name for name in LLAMA.modules if name.endswith(("q_proj", "v_proj")))),
    _like("a target that the model lacks", target_modules=["q_proj", "v_proj", "wq"]),
    _like("a regular expression in target_modules", target_modules=r".*\.(q|v)_proj$"),
    _like("exclude_modules", exclude_modules=r".*lm_head.*"),
    _like("every layer by number", layers_to_transform=[0, 1], layers_pattern="layers"),
    Case(tool="PEFT", shape="one layer by number", vllm="serves", tensors=lora(layers=[1]),
         config=PEFT_0_21 | {"layers_to_transform": 1, "layers_pattern": ["layers"]}),
    Case(tool="PEFT", shape="all linear modules, mixed ranks and alphas", vllm="serves",
         tensors=lora("proj", ranks={"down_proj": 16, "k_proj": 2}),
         config=PEFT_0_21 | {
             "target_modules": [name.rpartition(".")[2] for name in list(LLAMA.modules)[:7]],
             "rank_pattern": {"down_proj": 16, "self_attn.k_proj": 2},
             "alpha_pattern": {"down_proj": 24.5, "^model.layers.0.self_attn.k_proj": 4}}),
    Case(tool="PEFT", shape="rsLoRA with rank_pattern and alpha_pattern", vllm="serves",
         tensors=lora(ranks={"v_proj": 16}),
         config=PEFT_0_21 | {"use_rslora": True, "rank_pattern": {"v_proj": 16},
                             "alpha_pattern": {"v_proj": 32}}),
    Case(tool="PEFT", shape="a regular expression in rank_pattern", vllm="serves",
         says="no regular expressions", why=PATTERNS, tensors=lora(ranks={"v_proj": 8}),
         config=PEFT_0_21 | {"rank_pattern": {r".*\.v_proj": 8}}),
    Case(tool="PEFT", shape="a rank_pattern for layers without tensors", vllm="serves",
         says="for which there are no tensors", why=PATTERNS, tensors=lora(layers=[1]),
         config=PEFT_0_21 | {"rank_pattern": {"layers.0.self_attn.v_proj": 8}}),
    Case(tool="PEFT", shape="target_modules absent", vllm="refuses",
         says="target_modules is absent", tensors=lora(),
         config=without(PEFT_0_21, "target_modules")),
    Case(tool="PEFT", shape="target_parameters of linear layers", vllm="serves",
         tensors=lora("q_proj", "down_proj"),
         config=PEFT_0_21 | {"target_modules": ["q_proj"],
                             "target_parameters": ["mlp.down_proj.weight"]}),
]  # fmt: skip

CHANGING_THE_BASE: dict[str, dict[str, object]] = {
    "pissa": {},
    "pissa_niter_16": {},
    "olora": {},
    "corda": {"corda_config": CORDA},
    "loftq": {"loftq_config": {"loftq_bits": 4, "loftq_iter": 1}},
}
INITIALISATIONS = [
    *(
        _like(f"init_lora_weights {init}", init_lora_weights=init)
        for init in (False, "gaussian", "orthogonal", "mica", "EVA")
    ),
    _like("rsLoRA", use_rslora=True),
    _like("EVA", init_lora_weights="eva", eva_config=EVA),
    Case(tool="PEFT", shape="EVA with redistributed ranks", vllm="serves",
         tensors=lora(ranks={"layers.0.self_attn.q_proj": 2, "layers.1.self_attn.v_proj": 6}),
         config=PEFT_0_21 | {
             "init_lora_weights": "eva", "eva_config": EVA,
             "rank_pattern": {"model.layers.0.self_attn.q_proj": 2,
                              "model.layers.1.self_attn.v_proj": 6},
             "alpha_pattern": {"model.layers.0.self_attn.q_proj": 4.0,
                               "model.layers.1.self_attn.v_proj": 12.0}}),
    _like("LoRA-GA", init_lora_weights="lora_ga",
          lora_ga_config={"direction": "ArB2r", "scale": "stable", "stable_gamma": 16}),
    Case(tool="PEFT", shape="PiSSA, converted to a plain LoRA of twice the rank", vllm="serves",
         config=PEFT_0_21 | {"r": 8, "lora_alpha": 16}, tensors=lora(rank=8)),
    _like("CorDA, converted to a plain LoRA, its settings kept", corda_config=CORDA),
    _like("LoftQ's settings without its start", loftq_config={"loftq_bits": 4, "loftq_iter": 1}),
    *(
        Case(tool="PEFT", shape=f"init_lora_weights {init}", vllm="refuses",
             says="changes the base model's weights", tensors=lora(),
             config=PEFT_0_21 | {"init_lora_weights": init} | more)
        for init, more in CHANGING_THE_BASE.items()
    ),
]  # fmt: skip


def _not_served(shape: str, says: str, more: Named | None = None, **changes: object) -> Case:
    """What neither vLLM nor admission takes."""
    return Case(tool="PEFT", shape=shape, vllm="refuses", says=says, config=PEFT_0_21 | changes,
                tensors=lora() | (more or {}))  # fmt: skip


SEQ_CLS = PEFT_0_21 | {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}
ONES = ones(64)
OPTIONS = [
    _like("modules_to_save empty", modules_to_save=[]),
    _like("ensure_weight_tying without embeddings", ensure_weight_tying=True),
    _like("trained with Megatron's layers", megatron_config={"tensor_model_parallel_size": 1}),
    _like("switches null", use_dora=None, use_rslora=None, lora_bias=None, rank_pattern=None),
    _not_served("DoRA", "DoRA", {f"{Q}.lora_magnitude_vector": ONES}, use_dora=True),
    _not_served("modules_to_save", "modules_to_save", WHOLE, modules_to_save=["lm_head"]),
    _not_served("embeddings saved whole, for a longer vocabulary", "save_embedding_layers", WHOLE),
    _not_served("bias all", "trained biases", bias="all"),
    _not_served("bias lora_only", "trained biases", bias="lora_only"),
    _not_served("bias null", 'Set bias to "none"', bias=None),
    _not_served("lora_bias", "a bias in LoRA", {f"{Q}.lora_B.bias": ONES}, lora_bias=True),
    _not_served("QA-LoRA", "QA-LoRA", use_qalora=True),
    _not_served("activated LoRA", "activated LoRA", alora_invocation_tokens=[1, 2]),
    _not_served("layer_replication", "replicated layers", layer_replication=[[0, 2], [0, 2]]),
    _not_served("block-diagonal LoRA", "block-diagonal", use_bdlora={"nblocks": 2}),
    _not_served("trainable_token_indices", "trained token embeddings", {
        f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta": ones(2, 64)},
        trainable_token_indices=[1, 2]),
    _not_served("VeLoRA", "VeLoRA", {f"{Q}.lora_velora_embed": ones(16)},
                velora_config={"num_groups": 4, "scale": 1.0, "init_type": "batch_average"}),
    _not_served("KaSA", "KaSA", {f"{Q}.lora_diag": ones(4)},
                kasa_config={"beta": 1e-4, "gamma": 1e-3}),
    _not_served("MonteCLoRA", "MonteCLoRA",
                {f"{Q}.lora_monteclora_sampler.expert_weights": ones(8)},
                monteclora_config={"num_samples": 8}),
    Case(tool="PEFT", shape="Arrow routing", vllm="serves", says="Arrow routing",
         why=OTHERS_ADAPTERS, config=PEFT_0_21 | {"arrow_config": {"top_k": 3}}, tensors=lora()),
    Case(tool="PEFT", shape="LoRA on lm_head", vllm="serves", says="output or input embedding",
         why=EMBEDDINGS, tensors=lora() | HEAD,
         config=PEFT_0_21 | {"target_modules": ["q_proj", "v_proj", "lm_head"]}),
    Case(tool="PEFT", shape="LoRA on lm_head with a copy of the base's", vllm="serves",
         says="copy of the base model's", why=EMBEDDINGS, tensors=lora() | HEAD | HEAD_COPY,
         config=PEFT_0_21 | {"target_modules": ["q_proj", "v_proj", "lm_head"]}),
    Case(tool="PEFT", shape="LoRA on tied embeddings", vllm="serves",
         says="adapts an embedding", why=EMBEDDINGS, tensors=lora() | EMBEDDING,
         config=PEFT_0_21 | {"target_modules": ["q_proj", "v_proj", "embed_tokens"],
                             "ensure_weight_tying": True}),
]  # fmt: skip

TASKS = [
    *(
        _like(f"task_type {task}", task_type=task)
        for task in ("SEQ_2_SEQ_LM", "QUESTION_ANS", None)
    ),
    _like("a task of PEFT's own mapping", task_type=None, auto_mapping={
        "base_model_class": "LlamaForCausalLM",
        "parent_library": "transformers.models.llama.modeling_llama"}),
    Case(tool="PEFT", shape="FEATURE_EXTRACTION: a model without its head", vllm="ignores",
         says="which calls it 'model.layers.0.self_attn.q_proj'",
         tensors=renamed(lora(), "model.layers", "layers"),
         config=PEFT_0_21 | {"task_type": "FEATURE_EXTRACTION"}),
    Case(tool="PEFT", shape="SEQ_CLS with its head", vllm="serves", classifies=True,
         says="nothing names their labels", why=NAMELESS, config=SEQ_CLS,
         tensors=lora() | {f"{PREFIX}score.weight": ones(2, 64)}),
    Case(tool="PEFT", shape="SEQ_CLS with its head and labels", vllm="serves", classifies=True,
         config=SEQ_CLS, tensors=lora() | {f"{PREFIX}score.weight": ones(2, 64)},
         extra={"labels.json": b'["no", "yes"]'}),
    Case(tool="PEFT", shape="SEQ_CLS with a head of another width", vllm="refuses",
         classifies=True, says="the base needs [labels, 64]", config=SEQ_CLS,
         tensors=lora() | {f"{PREFIX}score.weight": ones(2, 32)}),
    Case(tool="PEFT", shape="SEQ_CLS with a head called classifier", vllm="refuses",
         classifies=True, says="The head is called 'classifier'", config=SEQ_CLS,
         tensors=lora() | {f"{PREFIX}classifier.weight": ones(2, 64)}),
    Case(tool="PEFT", shape="SEQ_CLS with a bias of another length", vllm="refuses",
         classifies=True, says="its weight needs [2]", config=SEQ_CLS,
         tensors=lora() | {f"{PREFIX}score.weight": ones(2, 64), f"{PREFIX}score.bias": ones(3)}),
    Case(tool="PEFT", shape="SEQ_CLS with a head alone", vllm="refuses", classifies=True,
         says="no LoRA tensors", config=SEQ_CLS,
         tensors={f"{PREFIX}score.weight": ones(2, 64)}),
    Case(tool="PEFT", shape="SEQ_CLS without its head", vllm="serves", says="modules_to_save",
         why=NO_HEAD, tensors=lora(),
         classifies=True, config=SEQ_CLS),
    Case(tool="PEFT", shape="peft_type absent", vllm="serves", says="peft_type is absent",
         why=BARE_NAMES, config=without(PEFT_0_21, "peft_type"), tensors=lora()),
]  # fmt: skip

METHODS = [
    Case(tool="PEFT", shape=kind, vllm="refuses", says=f"peft_type is '{kind}'",
         config=without(PEFT_0_2, "r", "lora_alpha") | {"peft_type": kind} | config,
         tensors={name: ones(*shape) for name, shape in tensors.items()})
    for kind, config, tensors in (
        ("IA3", {"feedforward_modules": []}, {f"{Q}.ia3_l": (64, 1)}),
        ("LOHA", {"r": 8, "alpha": 8}, {f"{Q}.hada_w1_a": (64, 8), f"{Q}.hada_w1_b": (8, 64)}),
        ("VERA", {"r": 256}, {f"{Q}.vera_lambda_b": (64,), f"{Q}.vera_lambda_d": (256,)}),
        ("ADALORA", {"r": 8, "lora_alpha": 8, "init_r": 12},
         {f"{Q}.lora_A": (12, 64), f"{Q}.lora_B": (64, 12), f"{Q}.lora_E": (12, 1)}),
        ("PREFIX_TUNING", {"num_virtual_tokens": 4}, {"prompt_embeddings": (4, 128)}),
        ("PROMPT_TUNING", {"num_virtual_tokens": 4}, {"prompt_embeddings": (4, 64)}),
    )
]  # fmt: skip

NAMES = [
    Case(tool="PEFT", shape="state_dict() as it is (default)", vllm="refuses",
         says="state_dict() was saved as it is", config=PEFT_0_18,
         tensors=renamed(lora(), ".weight", ".default.weight")),
    Case(tool="PEFT", shape="another adapter's name in a folder of its own", vllm="refuses",
         says="Push the folder that holds", config=None, tensors=None,
         extra={"expert/adapter_config.json": b"{}", "expert/adapter_model.safetensors": b""}),
    Case(tool="PEFT", shape="names without PEFT's prefix", vllm="serves", says="lacks the prefix",
         why=BARE_NAMES, config=PEFT_0_18, tensors=renamed(lora(), PREFIX, "")),
    Case(tool="PEFT", shape="a PEFT model inside another", vllm="serves", says="another PEFT model",
         why=BARE_NAMES, config=PEFT_0_18, tensors=prefixed(lora(), PREFIX)),
    Case(tool="PEFT", shape="torch.compile around the PEFT model", vllm="ignores",
         says="_orig_mod", config=PEFT_0_18, tensors=prefixed(lora(), "_orig_mod.")),
    Case(tool="PEFT", shape="torch.compile around the base model", vllm="ignores",
         says="_orig_mod", config=PEFT_0_18,
         tensors=renamed(lora(), PREFIX, f"{PREFIX}_orig_mod.")),
    Case(tool="PEFT", shape="torch.compile around each layer", vllm="ignores", says="_orig_mod",
         config=PEFT_0_18, tensors=renamed(lora(), ".self_attn", "._orig_mod.self_attn")),
]  # fmt: skip

CASES = [
    *VERSIONS, *TARGETS, *INITIALISATIONS, *OPTIONS, *TASKS, *METHODS, *NAMES,
]  # fmt: skip
