"""Files that trainers push beside an adapter, which the registry neither needs nor stores. Pure.

`Trainer.push_to_hub` of transformers and TRL sends the whole output folder. The Hub's answer to
`preupload` has `shouldIgnore` for files that a client shall leave out of its commit, so these are
never sent. Anything else that is not an adapter's file is refused, pickled weights above all.
"""

from adapters.admission import OPTIONAL, REQUIRED

_NAMES = frozenset(
    (
        # the tokenizer and its template, which are the base model's
        "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
        "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
        "sentencepiece.bpe.model", "tekken.json", "chat_template.jinja", "chat_template.json",
        # processors and generation settings of the base model
        "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json",
        "image_processor_config.json", "generation_config.json",
        # the trainer's records
        "training_args.bin", "trainer_state.json", "trainer_log.jsonl", "all_results.json",
        "train_results.json", "eval_results.json", "training_loss.png", "wandb_metadata.json",
        # the repository's and the operating system's own
        ".gitattributes", ".gitignore", ".DS_Store",
    )
)  # fmt: skip
_FOLDERS = (
    "runs/",
    "logs/",
    "wandb/",
    "checkpoint-",
    "last-checkpoint/",
    "additional_chat_templates/",
    ".cache/",
)
_RECORDS = ("events.out.tfevents.",)


def is_side_file(path: str) -> bool:
    """Whether a client shall leave out the file at `path`."""
    if path in REQUIRED or path in OPTIONAL:
        return False
    name = path.rpartition("/")[2]
    return path in _NAMES or path.startswith(_FOLDERS) or name.startswith(_RECORDS)
