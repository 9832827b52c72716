"""Why admission refuses what vLLM would serve."""

AMBIGUOUS = "The file is not what JSON allows; other readers take another value from it, or none."
BARE_NAMES = (
    "PEFT loads nothing from these names and leaves the base model as it is, with a warning."
)
CONVERT = "Only the types are read that trainers write; converting is lossless."
DIVERGED = "NaN answers would reach other requests of the batch."
EMBEDDINGS = (
    "A registered base has no shapes of embeddings to check against, and vLLM adapts them for some "
    "architectures only: what one server serves, another refuses."
)
FEW_BITS = "Numbers of 8 bits without their scale are not the values that were trained."
INCONSISTENT = "PEFT refuses it: configuration and tensors contradict each other."
MISPLACED = "vLLM copies tensors that are too small into larger buffers, without a look at shapes."
NO_EFFECT = "Its answers would be the base model's."
NO_HEAD = "It classifies with a head that no generating server has."
ONE_SIGN = "PEFT scales by alpha / r of a positive alpha; a sign is part of B."
OTHER_BASE = "Shapes that fit by chance say nothing: the update belongs to other weights."
OTHER_FILES = "A version holds what serving needs; --only-adapter-files leaves the rest behind."
OTHERS_ADAPTERS = "What it answers depends on further adapters."
PATTERNS = "A pattern from outside is never run; its ranks and alphas would not be bounded."
PICKLE = "Unpickling can run code; safetensors holds the same."
TOO_LARGE = "An update this large leaves nothing of the base model."
UNKNOWN = "What the key asks for is not known; served without it, the answers may be wrong."
