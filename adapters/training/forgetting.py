"""What training costs beside its task: the same general questions, before and after.

A question counts as right if, of its four answers, the right one has the highest log-likelihood for
each of its characters: `acc_norm` of lm-evaluation-harness. Unlike a generated answer, that can be
measured of models that would never write the right words alone.
"""

import contextlib
from typing import Any

import torch

from adapters.packs.general import general_questions
from adapters.recipe import Reward
from adapters.training.conversations import asking
from adapters.training.job import Forgetting, Job
from adapters.training.models import prompt_text
from adapters.training.packing import IGNORED, Example, pack


class General:
    """Asks the model that is about to be trained, and again when it has been."""

    def __init__(self, job: Job, model: Any, tokenizer: Any) -> None:
        self._wanted = job.recipe.forgetting and not isinstance(job.recipe, Reward)
        self._tokenizer = tokenizer
        self._before: list[bool] = []
        if self._wanted:
            with _untouched(model, job):
                self._before = general_right(model, tokenizer)

    def again(self, model: Any) -> Forgetting | None:
        """What became of it; None if the recipe does not want to know."""
        if not self._wanted:
            return None
        after = general_right(model, self._tokenizer)
        return Forgetting(
            before=sum(self._before),
            after=sum(after),
            lost=sum(b and not a for b, a in zip(self._before, after, strict=True)),
            of=len(after),
        )


def _untouched(model: Any, job: Job) -> contextlib.AbstractContextManager[Any]:
    """Without the adapter that this training begins anew, whose virtual tokens would be random."""
    if job.start is None and hasattr(model, "peft_config"):
        disabled: contextlib.AbstractContextManager[Any] = model.disable_adapter()
        return disabled
    return contextlib.nullcontext()


def general_right(model: Any, tokenizer: Any) -> list[bool]:
    """Which of `general_questions` the model gets right; its mode is left as it was."""
    was_training = model.training
    model.eval()
    right = []
    for row in general_questions():
        asked = tokenizer(prompt_text(tokenizer, asking(row.question)), add_special_tokens=False)
        answers = [
            tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in row.choices
        ]
        likely = _log_likelihoods(model, asked["input_ids"], answers)
        each = [value / len(choice) for value, choice in zip(likely, row.choices, strict=True)]
        right.append(row.choices[each.index(max(each))] == row.answer)
    model.train(was_training)
    return right


@torch.no_grad()
def _log_likelihoods(model: Any, prompt: list[int], answers: list[list[int]]) -> list[float]:
    """Of each answer after the prompt, natural logarithm."""
    method = getattr(model, "active_peft_config", None)
    # Virtual tokens stand before the sequence, where the packed mask has no place for them.
    padded = method is not None and method.is_prompt_learning
    return (padded_likelihoods if padded else packed_likelihoods)(model, prompt, answers)


def packed_likelihoods(model: Any, prompt: list[int], answers: list[list[int]]) -> list[float]:
    """Log-likelihood of each answer after the prompt, which is computed once for all of them."""
    packed = pack([Example(tuple(prompt), tuple(answer)) for answer in answers])
    inputs = {name: tensor.to(model.device) for name, tensor in packed.items()}
    labels = inputs.pop("labels")[0]
    predicting = (labels[1:] != IGNORED).nonzero().squeeze(1)
    logits = model(**inputs, logits_to_keep=predicting).logits[0]
    each = logits.float().log_softmax(-1).gather(-1, labels[predicting + 1, None]).squeeze(-1)
    return [float(part.sum()) for part in each.split([len(answer) for answer in answers])]


def padded_likelihoods(model: Any, prompt: list[int], answers: list[list[int]]) -> list[float]:
    """The same with a sequence for each answer, filled on the right."""
    longest = max(map(len, answers))
    padded = [prompt + answer + prompt[:1] * (longest - len(answer)) for answer in answers]
    seen = [[1] * (len(prompt) + len(a)) + [0] * (longest - len(a)) for a in answers]
    ids = torch.tensor(padded, device=model.device)
    mask = torch.tensor(seen, device=model.device)
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=longest + 1).logits
    each = logits[:, :-1].float().log_softmax(-1)
    chosen = each.gather(-1, ids[:, len(prompt) :, None]).squeeze(-1)
    return [float(value) for value in (chosen * mask[:, len(prompt) :]).sum(1)]
