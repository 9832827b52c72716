"""How an adapter is trained: every number that changes the result, in one frozen struct a stage.

    Recipe      what all stages share
    ├── Sft     supervised fine-tuning on prompts and answers
    ├── Classify  a classification head: one label for a text
    ├── Reward  a model of preferences, from pairs
    ├── Dpo     direct preference optimisation, from pairs
    ├── Kto     the same from single judgements, thumbs up or down
    └── Online  answers are sampled and rewarded while it trains
        ├── Ppo             our own PPO-clip loop
        └── Grouped
            ├── Rloo        TRL's leave-one-out REINFORCE
            └── Grpo        TRL's group-relative optimisation

A recipe file is YAML with these fields as its keys; `stage` names the struct.
"""

import difflib
import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

import msgspec
import yaml
from msgspec import Meta

from adapters.errors import InvalidName, LoraryError
from adapters.home import SMALL_MODEL
from adapters.names import AdapterRef

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Method = Literal["lora", "rslora", "dora", "qlora", "ia3", "prefix", "prompt", "full"]
LORA_FAMILY = ("lora", "rslora", "dora", "qlora")

Natural = Annotated[int, Meta(gt=0)]
Whole = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]


class BadRecipe(LoraryError):
    """A recipe that cannot be read, or that contradicts itself."""

    status = 400
    code = "bad_recipe"


class DoesNotFit(BadRecipe):
    """The device has too little memory for the largest step."""

    status = 409
    code = "does_not_fit"


class TrainingRuns(BadRecipe):
    """Another process trains into the same directory."""

    status = 409
    code = "training_runs"


class Recipe(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="stage"
):
    """What all stages share. LoRA is Hu et al.'s, arXiv 2106.09685."""

    adapter: str
    """What it is published as, DOMAIN/ADAPTER."""
    data: tuple[str, ...]
    """Tasks of the domain packs, `.jsonl` files, or `hub:` ids; mixed if there are several. A part
    in percent of the units: `medical[:60%]`."""
    base: str = SMALL_MODEL
    """The base model's registered name; its directory is given when training."""
    start: str = ""
    """The adapter whose training is continued: a directory, or DOMAIN/ADAPTER trained here."""
    method: Method = "lora"
    rank: Natural = 16
    alpha: Natural = 32
    dropout: Share = 0.0
    target_modules: tuple[str, ...] = ALL_LINEAR
    """Of the LoRA family, IA3 excepted, which scales k_proj, v_proj and down_proj."""
    virtual_tokens: Natural = 16
    """Of prefix and prompt tuning."""
    learning_rate: Positive = 1e-3
    schedule: str = "linear"
    warmup_steps: Whole = 5
    batch: Natural = 16
    """Examples an optimiser step sees."""
    accumulate: Natural = 1
    """Parts in which a batch is computed; more parts need less memory, the result is the same."""
    steps: Natural = 70
    max_tokens: Natural = 256
    """Prompt and answer together, for every row; none is cut."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """Whether longer rows are refused before training begins, or left out and counted."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """What products are computed in, the frozen base held in: `auto` takes bfloat16 on a GPU that
    has it, else float32. Trained weights and the optimiser are float32 always."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    saved_as: Literal["bfloat16", "float32"] = "bfloat16"
    """How the result's tensors are saved: bfloat16 is half the bytes that a server loads."""
    seed: Whole = 0
    validation: Share = 0.0
    """Share of the training units kept out to watch the loss on; the held-out set stays unseen."""
    evaluate_every: Whole = 0
    """Steps between evaluations on the validation share; 0: none."""
    patience: Whole = 0
    """Evaluations without improvement after which training stops and takes the best; 0: never."""
    forgetting: bool = True
    """Ask questions of general knowledge before and after; stages whose model writes no answers
    (`reward`, `classify`) never do."""
    save_every: Natural = 25
    """Steps between checkpoints, from which a killed training goes on."""

    methods: ClassVar[tuple[str, ...]] = LORA_FAMILY
    """The methods that this stage can train."""

    def __post_init__(self) -> None:
        if self.method not in self.methods:
            raise ValueError(
                f"stage {self.stage!r} trains {', '.join(self.methods)}, not {self.method}"
            )
        if self.batch % self.accumulate:
            raise ValueError(f"batch ({self.batch}) must be a multiple of accumulate")
        if self.evaluate_every and not self.validation:
            raise ValueError("evaluate_every needs a validation share, such as validation=0.1")
        if self.patience and not self.evaluate_every:
            raise ValueError("patience counts evaluations: set evaluate_every, too")
        if not self.data:
            raise ValueError("data names nothing to train on")
        if self.start and self.method not in LORA_FAMILY:
            raise ValueError("start continues a LoRA; set method to one of its family")
        try:
            reference = AdapterRef.parse(self.adapter)
        except InvalidName as error:
            raise ValueError(error.message) from error
        if reference.adapter is None or reference.version or reference.alias:
            raise ValueError(f"adapter is {self.adapter!r}; write DOMAIN/ADAPTER")

    @property
    def stage(self) -> str:
        """The key `stage` of the recipe file."""
        return str(self.__struct_config__.tag)

    @property
    def domain(self) -> str:
        """The first part of `adapter`."""
        return self.adapter.partition("/")[0]

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: the recipe's identity in provenance."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    def changed(self, assignments: Sequence[str]) -> "AnyRecipe":
        """The recipe with `key=value` assignments applied; raises `BadRecipe` naming the key."""
        fields = msgspec.to_builtins(self)
        for assignment in assignments:
            key, equals, value = assignment.partition("=")
            if not equals or key not in fields:
                raise BadRecipe(f"{assignment!r}: write KEY=VALUE{_nearest(key, fields)}.")
            fields[key] = value.split(",") if isinstance(fields[key], list | tuple) else value
        return _convert(fields)


class Sft(Recipe, frozen=True, kw_only=True, tag="sft"):
    """Supervised fine-tuning; loss on the answer only."""

    replay: Share = 0.0
    """Share of each batch taken from `replay_data`, so that general ability is kept."""
    replay_data: str = ""
    """General prompts and answers: a `.jsonl` file or a `hub:` id."""

    methods: ClassVar[tuple[str, ...]] = get_args(Method)

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.replay) != bool(self.replay_data):
            raise ValueError("replay and replay_data belong together")


class Classify(Recipe, frozen=True, kw_only=True, tag="classify"):
    """A LoRA with a linear classification head on the last token's hidden state (PEFT's SEQ_CLS).

    A text gets one of two or more labels. The base's sequence-classification class is trained.
    """

    labels: tuple[str, ...] = ()
    """In the order of the head's rows. By default the task's, or those of the rows, sorted."""
    learning_rate: Positive = 5e-4
    steps: Natural = 150
    batch: Natural = 32
    max_tokens: Natural = 128
    """Of a text; none is cut."""
    forgetting: bool = False

    methods: ClassVar[tuple[str, ...]] = ("lora", "rslora")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.forgetting:
            raise ValueError("a classification head writes no answers: drop forgetting")
        if len(set(self.labels)) < len(self.labels) or len(self.labels) == 1:
            raise ValueError("labels names two or more different labels, or none")


class Reward(Recipe, frozen=True, kw_only=True, tag="reward"):
    """A reward model: Bradley-Terry on pairs, a LoRA with a scoring head (TRL's RewardTrainer)."""

    learning_rate: Positive = 3e-4


class Dpo(Recipe, frozen=True, kw_only=True, tag="dpo"):
    """Direct preference optimisation (Rafailov et al., arXiv 2305.18290)."""

    beta: Positive = 0.1
    """How strongly it is held to the model it started from."""
    likelihood: NonNegative = 1.0
    """Weight of the preferred answers' own likelihood, which the comparison alone may lower
    (Pang et al., arXiv 2404.19733)."""
    learning_rate: Positive = 1e-4


class Kto(Recipe, frozen=True, kw_only=True, tag="kto"):
    """Kahneman-Tversky optimisation (Ethayarajh et al., arXiv 2402.01306)."""

    beta: Positive = 0.1
    desirable_weight: Positive = 1.0
    undesirable_weight: Positive = 1.0
    learning_rate: Positive = 5e-5


class Online(Recipe, frozen=True, kw_only=True):
    """What the stages that sample answers share."""

    reward: str = "verifiable"
    """A reward model's directory or DOMAIN/ADAPTER, or `verifiable`: 1 for the right answer."""
    beta: NonNegative = 0.1
    """Price of a nat of KL divergence from the model it started from."""
    max_new_tokens: Natural = 16
    learning_rate: Positive = 2e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation:
            raise ValueError("stages that sample answers have no held-out loss; drop validation")
        if self.max_new_tokens >= self.max_tokens:
            raise ValueError("max_tokens leaves no room for a prompt beside max_new_tokens")


class Ppo(Online, frozen=True, kw_only=True, tag="ppo"):
    """PPO-clip (Schulman et al., arXiv 1707.06347) with a KL penalty, as in arXiv 2203.02155."""

    clip: Positive = 0.2
    epochs: Natural = 2
    """Passes over each batch of sampled answers."""
    value_learning_rate: Positive = 1e-3
    gae_lambda: Annotated[float, Meta(ge=0, le=1)] = 0.95


class Grouped(Online, frozen=True, kw_only=True):
    """Several answers to each prompt are compared with each other."""

    generations: Annotated[int, Meta(ge=2)] = 4
    """Answers to each prompt; divides `batch`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch % self.generations:
            raise ValueError(f"batch ({self.batch}) must be a multiple of generations")


class Rloo(Grouped, frozen=True, kw_only=True, tag="rloo"):
    """REINFORCE leave-one-out (Ahmadian et al., arXiv 2402.14740), by TRL."""


class Grpo(Grouped, frozen=True, kw_only=True, tag="grpo"):
    """Group-relative policy optimisation (Shao et al., arXiv 2402.03300), by TRL."""


AnyRecipe = Sft | Classify | Reward | Dpo | Kto | Ppo | Rloo | Grpo
"""For decoding: the key `stage` says which."""

STAGES: dict[str, type[AnyRecipe]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (Sft, Classify, Reward, Dpo, Kto, Ppo, Rloo, Grpo)
}


def parse_recipe(text: str) -> AnyRecipe:
    """A recipe file's content as its stage's struct; raises `BadRecipe` naming the key."""
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadRecipe(f"The recipe is not valid YAML: {error}.") from error
    if not isinstance(fields, dict):
        raise BadRecipe("A recipe is a map of keys to values; see `lorary train --help`.")
    return _convert(fields)


def _convert(fields: dict[str, Any]) -> AnyRecipe:
    stage = fields.get("stage")
    kind = STAGES.get(stage) if isinstance(stage, str) else None
    if kind is None:
        raise BadRecipe(f"stage is {stage!r}; set it to one of {', '.join(STAGES)}.")
    known = [field.encode_name for field in msgspec.structs.fields(kind)]
    for key in fields:
        if key not in (*known, "stage"):
            raise BadRecipe(f"Stage {stage!r} has no key {key!r}{_nearest(str(key), known)}.")
    if isinstance(fields.get("data"), str):
        fields = {**fields, "data": [fields["data"]]}
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRecipe(f"{error}. Mend the recipe, or override the key: KEY=VALUE.") from error


def _nearest(key: str, known: Any) -> str:
    """A hint for a key that is not known."""
    near = difflib.get_close_matches(key, list(known), n=1)
    return f", perhaps {near[0]}" if near else f"; the keys are {', '.join(known)}"
