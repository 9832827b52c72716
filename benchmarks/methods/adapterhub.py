"""Bottleneck adapters by AdapterHub's library, in a process where `adapters` is that library.

    PYTHONPATH=FOLDER python -P adapterhub.py PLAN RESULT

It sees nothing of ours: the plan (bottleneck.py) holds tokens, in the order of the steps.
"""

import importlib
import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.functional import cross_entropy

NAME = "bottleneck"
Example = list[list[int]]
"""Tokens of a prompt and of its answer."""


def main(plan: Path, result: Path) -> None:
    """Train as planned, answer what is asked, write what the comparison tells."""
    given = json.loads(plan.read_text())
    torch.manual_seed(given["seed"])
    hub: Any = importlib.import_module("adapters")
    model = loaded(Path(given["base"]))
    hub.init(model)
    model.add_adapter(NAME, config=hub.DoubleSeqBnConfig(reduction_factor=given["reduction"]))
    model.train_adapter(NAME)
    losses = trained(model, given)
    tail = losses[-max(1, len(losses) // 10) :]
    answers = answered(model.eval(), given)
    parameters = list(model.parameters())
    found = {
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "parameters": sum(p.numel() for p in parameters),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "final_loss": sum(tail) / len(tail),
        "answers": answers,
    }
    result.write_text(json.dumps(found))


def loaded(base: Path) -> Any:
    """The base in float32. This transformers reads the rope's base from another key than ours."""
    config = transformers.AutoConfig.from_pretrained(base)
    config.rope_theta = json.loads((base / "config.json").read_text())["rope_parameters"][
        "rope_theta"
    ]
    return transformers.AutoModelForCausalLM.from_pretrained(
        base, config=config, dtype=torch.float32
    )


def trained(model: Any, given: dict[str, Any]) -> list[float]:
    """Each step's loss: the mean cross entropy over the batch's answer tokens."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=given["learning_rate"], weight_decay=0)
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, given["warmup"], len(given["batches"])
    )
    model.train()
    losses = []
    for batch in given["batches"]:
        ids, seen, answer = padded(batch, given["pad"])
        width = answer.shape[1]
        logits = model(
            input_ids=ids,
            attention_mask=seen,
            position_ids=(seen.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=width + 1,
        ).logits[:, :-1]
        loss: Any = cross_entropy(logits.float().flatten(0, 1), answer.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def padded(batch: list[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens and mask (N, P + T), so that all answers begin alike; labels (N, T)."""
    before = max(len(prompt) for prompt, _ in batch)
    after = max(len(answer) for _, answer in batch)
    ids, seen, labels = [], [], []
    for prompt, answer in batch:
        left, right = before - len(prompt), after - len(answer)
        ids.append([pad] * left + prompt + answer + [pad] * right)
        seen.append([0] * left + [1] * (len(prompt) + len(answer)) + [0] * right)
        labels.append(answer + [-100] * right)
    return torch.tensor(ids), torch.tensor(seen), torch.tensor(labels)


@torch.no_grad()
def answered(model: Any, given: dict[str, Any]) -> list[list[int]]:
    """The greedy answer's tokens to each prompt that is asked."""
    found: list[list[int]] = []
    for begin in range(0, len(given["asked"]), 16):
        part = [[prompt, []] for prompt in given["asked"][begin : begin + 16]]
        ids, seen, _ = padded(part, given["pad"])
        said = model.generate(
            input_ids=ids,
            attention_mask=seen,
            do_sample=False,
            use_cache=False,  # with it this library's Llama forgets the tokens before
            max_new_tokens=given["most"],
            pad_token_id=given["pad"],
            eos_token_id=given["end"],
        )
        found += said[:, ids.shape[1] :].tolist()
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
