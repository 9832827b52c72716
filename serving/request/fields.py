"""Which fields a request may have, and the bound of each.

vLLM knows more fields: templates that run (`chat_template`), files and URLs that it fetches,
embeddings that it unpickles, other requests' ids, transfer of caches. Those are refused, and so is
whatever a later vLLM adds, until somebody has judged it.
"""

from collections.abc import Mapping
from typing import Any

from serving.request.bounds import (
    AnyText,
    Bound,
    Checked,
    Either,
    Flag,
    InvalidField,
    ListOf,
    MapOf,
    Number,
    OneOf,
    Shape,
    Text,
    Whole,
)
from serving.request.constraints import (
    RESPONSE_FORMAT,
    SCHEMA,
    STRUCTURED_OUTPUTS,
    TEXT_FORMAT,
)
from serving.request.texts import MAX_ALL_PARTS, check_items, check_messages

MAX_CHOICES = 16
MAX_SEQUENCES = 32
"""Prompts x choices: what one request may have the engine answer."""
MAX_MESSAGES = 2_048
MAX_ITEMS = 512
MAX_TOOLS = 128
_INT32 = 2**31 - 1
_INT64 = 2**63 - 1
_TOKEN = Whole(0, _INT32)
_COUNT = Whole(0, _INT32)


def _check_tool_type(name: str, value: Any) -> None:
    """Only functions, which the caller runs: other tools would run something here, or far away."""
    if value != "function":
        raise InvalidField(name, '"function"', "Other tools are not served here: leave them out.")


_TOOL_TYPE = Checked('"function"', _check_tool_type)


def _token_id(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) <= 10


def _template_argument(key: str) -> bool:
    return key.isidentifier() and len(key) <= 64 and key not in _NOT_FOR_TEMPLATES


_NOT_FOR_TEMPLATES = frozenset(
    (
        # of `apply_chat_template`
        "self", "conversation", "conversations", "messages", "tools", "documents", "chat_template",
        "add_generation_prompt", "continue_final_message", "tokenize", "padding", "truncation",
        "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
        "tokenizer_kwargs", "kwargs",
        # of the tokenizer's `__call__` and what it calls
        "text", "text_pair", "text_target", "text_pair_target", "add_special_tokens", "stride",
        "padding_strategy", "truncation_strategy", "truncation_side", "padding_side",
        "is_split_into_words", "pad_to_multiple_of", "return_token_type_ids", "return_length",
        "return_attention_mask", "return_overflowing_tokens", "return_special_tokens_mask",
        "return_offsets_mapping", "split_special_tokens", "verbose",
    )
)  # fmt: skip
"""Parameters of transformers. vLLM passes them on beside the template's variables: `padding` to a
`max_length` of trillions ends the process."""
_FUNCTION: dict[str, Bound] = {
    "name": Text(128),
    "description": Text(16 << 10),
    "parameters": SCHEMA,
    "strict": Flag(),
}
_TOOL = Shape({"type": _TOOL_TYPE, "function": Shape(_FUNCTION, ("name",))}, ("type", "function"))
_RESPONSES_TOOL = Shape({"type": _TOOL_TYPE, **_FUNCTION}, ("type", "name"))
_ANY_CHOICE = OneOf(("none", "auto", "required"))
_TOOL_CHOICE = Either(
    (
        _ANY_CHOICE,
        Shape({"type": OneOf(("function",)), "function": Shape({"name": Text(128)}, ("name",))}),
    )
)
_RESPONSES_TOOL_CHOICE = Either(
    (_ANY_CHOICE, Shape({"type": OneOf(("function",)), "name": Text(128)}, ("name",)))
)
_TOKENS = ListOf(_TOKEN, _INT32)


def _check_prompt(name: str, value: Any) -> None:
    """A text, token ids, or a list of either."""
    if isinstance(value, str):
        return
    if not isinstance(value, list) or not value:
        raise InvalidField(name, PROMPT)
    if type(value[0]) is int:
        _TOKENS.check(name, value)
    elif len(value) > MAX_SEQUENCES:
        raise InvalidField(name, PROMPT, "Send several requests.")
    else:
        (_ANY_TEXT if isinstance(value[0], str) else _TOKENS_LIST).check(name, value)


_ANY_TEXT = ListOf(AnyText(), MAX_SEQUENCES, least=1)
_TOKENS_LIST = ListOf(_TOKENS, MAX_SEQUENCES, least=1)
PROMPT = Checked(
    f"a string or a list of token ids, or a list of 1 to {MAX_SEQUENCES} of either", _check_prompt
)
_PENALTY = Number(-2, 2)
_COMMON: dict[str, Bound] = {
    "model": Text(512),
    "stream": Flag(),
    "temperature": Number(0, 100),
    "top_p": Number(0, 1),
    "top_k": Whole(-1, _INT32),
    "min_p": Number(0, 1),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "logit_bias": MapOf(_token_id, "keyed by token ids", Number(-100, 100), 1_024),
    "top_logprobs": Whole(0, 20),
    "parallel_tool_calls": Flag(),
    "metadata": MapOf(
        lambda key: len(key) <= 64, "their names of at most 64 characters", Text(512), 16
    ),
    "user": Text(512),
    "safety_identifier": Text(512),
    "service_tier": Text(32),
    "store": Flag(),
    "chat_template_kwargs": MapOf(
        _template_argument,
        "named as template variables and not as what the server sets itself",
        Either((Flag(), Number(-(2**53), 2**53), Text(256))),
        16,
    ),
    "include_reasoning": Flag(),
}  # fmt: skip
FIELDS: Mapping[str, Bound] = {
    **_COMMON,
    # OpenAI's
    "messages": Checked(
        f"a list of at most {MAX_MESSAGES:,} messages of text and function calls, with at most "
        f"{MAX_ALL_PARTS:,} parts and calls altogether",
        lambda name, value: check_messages(name, value, MAX_MESSAGES),
    ),
    "prompt": PROMPT,
    "input": PROMPT,
    "stream_options": Shape(
        {"include_usage": Flag(), "continuous_usage_stats": Flag(), "include_obfuscation": Flag()}
    ),
    "n": Whole(1, MAX_CHOICES),
    "best_of": Whole(1, MAX_CHOICES),
    "echo": Flag(),
    "suffix": AnyText(),
    "max_tokens": _COUNT,
    "max_completion_tokens": _COUNT,
    "stop": Either((Text(256), ListOf(Text(256), 4))),
    "seed": Whole(-_INT64 - 1, _INT64),
    "logprobs": Either((Flag(), Whole(0, 20))),
    "response_format": RESPONSE_FORMAT,
    "tools": ListOf(_TOOL, MAX_TOOLS),
    "tool_choice": _TOOL_CHOICE,
    "reasoning_effort": Text(32),
    "encoding_format": OneOf(("float", "base64")),
    "dimensions": Whole(1, 65_536),
    # vLLM's, which only shape the sampling of this request
    "min_tokens": _COUNT,
    "repetition_penalty": Number(0, 100),
    "length_penalty": Number(-100, 100),
    "ignore_eos": Flag(),
    "stop_token_ids": ListOf(_TOKEN, 64),
    "include_stop_str_in_output": Flag(),
    "skip_special_tokens": Flag(),
    "spaces_between_special_tokens": Flag(),
    "bad_words": ListOf(Text(64), 64),
    "allowed_token_ids": ListOf(_TOKEN, 4_096),
    "structured_outputs": STRUCTURED_OUTPUTS,
    "add_generation_prompt": Flag(),
    "continue_final_message": Flag(),
    "add_special_tokens": Flag(),
    "return_token_ids": Flag(),
    "return_tokens_as_token_ids": Flag(),
    "truncate_prompt_tokens": Whole(-1, _INT32),
    "truncation_side": OneOf(("left", "right")),
}
"""The fields of chats, completions and embeddings."""

RESPONSES_FIELDS: Mapping[str, Bound] = {
    **_COMMON,
    "include": ListOf(Text(64), 8),
    "input": Either(
        (
            AnyText(),
            Checked(
                f"a list of at most {MAX_ITEMS} messages and function calls, of text only, with at "
                f"most {MAX_ALL_PARTS:,} parts altogether",
                lambda name, value: check_items(name, value, MAX_ITEMS),
            ),
        )
    ),
    "instructions": AnyText(),
    "stream_options": Shape({"include_obfuscation": Flag()}),
    "max_output_tokens": _COUNT,
    "reasoning": Shape({"effort": Text(32), "summary": Text(32), "generate_summary": Text(32)}),
    "text": Shape({"format": TEXT_FORMAT, "verbosity": Text(32)}),
    "tool_choice": _RESPONSES_TOOL_CHOICE,
    "tools": ListOf(_RESPONSES_TOOL, MAX_TOOLS),
    "truncation": OneOf(("auto", "disabled")),
}
"""The fields of `/v1/responses`. Nothing is kept between two requests, so what refers to an earlier
one (`previous_response_id`, `conversation`) or asks for a later look (`background`) is refused."""

IGNORED = frozenset(
    (
        "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "verbosity",
        "prediction", "max_tool_calls", "moderation", "cache_control",
    )
)  # fmt: skip
"""Fields that clients send and that change no answer here: they are left out."""
ASKS_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "background": (False,),
    "use_beam_search": (False,),
    "priority": (0,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "speed": ("standard",),
    "tools": ([],),
    "logit_bias": ({},),
}
"""Values that ask for nothing, of fields that are refused otherwise or that vLLM refuses."""
