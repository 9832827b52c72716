"""Files, batches and Anthropic's messages on real vLLM, by the ordinary clients of both APIs."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anthropic
import openai
import pytest
from pydantic import BaseModel as Schema
from safetensors.numpy import save

from adapters.base_model import BaseModel
from tests.support.adapters import tensors, write_described
from tests.support.published import published
from tests.support.servers import BIN, free_port, running
from tests.support.tiny_model import write_tiny_model

pytest.importorskip("vllm")
CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
SECRET = "the patient's name is Ada"


@dataclass
class Site:
    """A store with two adapters, and the server that serves them now."""

    folder: Path
    base: Path
    key: str
    other: str
    """A key of somebody else."""
    held: ExitStack = field(default_factory=ExitStack)
    url: str = ""
    process: Any = None

    def start(self) -> None:
        """Start a server, in place of the one that runs."""
        self.held.close()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.process = self.held.enter_context(
            running(
                [str(BIN / "lorary"), "serve", "--port", str(port), "--", "--dtype=float32",
                 "--enforce-eager"],
                self.folder / f"serve-{port}.log",
                ready=f"{self.url}/health",
                environment={
                    "LORARY_STORE": str(self.folder / "store"),
                    "LORARY_MODEL": str(self.base),
                    "LORARY_BASE_NAME": "tiny",
                    "LORARY_MAX_MODEL_LEN": "1024",
                    "LORARY_HOME": str(self.folder / "home"),
                },
                seconds=400,
            )
        )  # fmt: skip

    def openai(self, key: str | None = None) -> openai.OpenAI:
        """OpenAI's ordinary client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=0)

    def anthropic(self, key: str | None = None) -> anthropic.Anthropic:
        """Anthropic's ordinary client."""
        return anthropic.Anthropic(base_url=self.url, api_key=key or self.key, max_retries=0)

    def logs(self) -> str:
        """What all servers wrote so far."""
        return "".join(log.read_text(errors="replace") for log in self.folder.glob("serve-*.log"))

    def batch(self, lines: list[dict[str, Any]]) -> Any:
        """A new batch of these bodies, numbered."""
        rows = (
            json.dumps({"custom_id": f"n{n}", "method": "POST", "url": CHAT, "body": body})
            for n, body in enumerate(lines)
        )
        client = self.openai()
        file = client.files.create(file=("in.jsonl", "\n".join(rows).encode()), purpose="batch")
        return client.batches.create(
            input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"for": "test"}
        )

    def ended(self, batch_id: str, seconds: float = 240) -> Any:
        """The batch once it has ended."""
        client = self.openai()
        return self.until(
            lambda: client.batches.retrieve(batch_id),
            lambda batch: batch.status in ("completed", "failed", "expired", "cancelled"),
            seconds,
        )

    def until(
        self, look: Callable[[], Any], good: Callable[[Any], bool], seconds: float = 120
    ) -> Any:
        """What `look` finds once it is good."""
        deadline = time.monotonic() + seconds
        while not good(found := look()):
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        return found

    def rows(self, file_id: str | None) -> list[dict[str, Any]]:
        """The lines of a file."""
        assert file_id is not None
        text = self.openai().files.content(file_id).text
        return [json.loads(line) for line in text.splitlines()]


def body(model: str, text: str = SECRET, **fields: Any) -> dict[str, Any]:
    given = {"max_tokens": 6, "temperature": 0} | fields
    return {"model": model, "messages": [{"role": "user", "content": text}], **given}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("batches")
    base = write_tiny_model(folder / "base", heads=2)
    described = BaseModel.from_directory(base, "tiny")
    targets = sorted({module.rpartition(".")[2] for module in described.modules})
    made = {}
    for seed, name in enumerate(("one", "two")):
        weights = save({n: 4 * a for n, a in tensors(described, seed=seed).items()})
        made[name] = folder / name
        write_described(made[name], described, weights, r=4, target_modules=targets)
    key, other = published(folder / "store", described, made, ("app", "other")).apps
    site = Site(folder, base, key, other)
    with site.held:
        site.start()
        yield site


def test_each_line_is_answered_by_the_model_that_it_names(site: Site) -> None:
    models = ["demo/one", "demo/two", "tiny", "demo/none"] * 5
    batch = site.ended(site.batch([body(model) for model in models]).id)
    assert batch.status == "completed"
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (20, 15, 5)
    answers = {row["custom_id"]: row["response"]["body"] for row in site.rows(batch.output_file_id)}
    named = {"demo/one": "demo/one@1", "demo/two": "demo/two@1", "tiny": "tiny"}
    client = site.openai()
    for number, model in enumerate(models):
        if model not in named:
            continue
        answer = answers[f"n{number}"]
        assert answer["model"] == named[model]
        plain = client.chat.completions.create(**body(model))
        assert answer["choices"][0]["message"]["content"] == plain.choices[0].message.content
    errors = site.rows(batch.error_file_id)
    assert {row["response"]["body"]["error"]["code"] for row in errors} == {"adapter_not_found"}
    assert batch.metadata == {"for": "test"}
    assert next(iter(client.batches.list())).id == batch.id
    assert batch.output_file_id in {file.id for file in client.files.list()}
    client.files.delete(batch.output_file_id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(batch.output_file_id)
    with pytest.raises(openai.NotFoundError):
        site.openai(site.other).batches.retrieve(batch.id)


def test_a_cancelled_batch_ends_within_seconds_and_keeps_what_was_answered(site: Site) -> None:
    batch = site.batch([body("demo/one", ignore_eos=True, max_tokens=900) for _ in range(400)])
    client = site.openai()
    site.until(lambda: client.batches.retrieve(batch.id), lambda b: b.status == "in_progress")
    time.sleep(2)
    assert client.batches.cancel(batch.id).status == "cancelling"
    ended = site.ended(batch.id, 20)
    assert ended.status == "cancelled"
    assert ended.request_counts.completed < 400


def test_others_are_answered_while_a_batch_fills_its_places(site: Site) -> None:
    client = site.openai()
    batch = site.batch([body("demo/one", ignore_eos=True, max_tokens=900) for _ in range(400)])
    site.until(lambda: client.batches.retrieve(batch.id), lambda b: b.status == "in_progress")
    time.sleep(2)
    for _ in range(4):
        answer = client.chat.completions.create(
            **body("demo/two", "Hello", max_tokens=32), extra_body={"ignore_eos": True}
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 32
    assert client.batches.cancel(batch.id).status == "cancelling", "it still ran"
    site.ended(batch.id, 20)


def test_anthropics_client_is_answered_whole_and_as_a_stream(site: Site) -> None:
    client = site.anthropic()
    asked: dict[str, Any] = {
        "model": "demo/one", "max_tokens": 12, "extra_body": {"temperature": 0},
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": SECRET}],
    }  # fmt: skip
    whole = client.messages.create(**asked)
    assert whole.model == "demo/one@1"
    assert 0 < whole.usage.output_tokens <= 12
    assert whole.usage.input_tokens > 10
    counted = client.messages.count_tokens(
        model="demo/one", system=asked["system"], messages=asked["messages"]
    )
    assert counted.input_tokens == whole.usage.input_tokens
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        last = stream.get_final_message()
    assert text == "".join(block.text for block in whole.content if block.type == "text")
    assert last.usage.output_tokens == whole.usage.output_tokens
    assert last.stop_reason == whole.stop_reason
    again = [
        *asked["messages"],
        {"role": "assistant", "content": [block.model_dump() for block in whole.content]},
        {"role": "user", "content": [{"type": "text", "text": "And then?"}]},
    ]
    assert client.messages.create(**asked | {"messages": again}).usage.output_tokens > 0


def test_anthropics_client_reads_refusals(site: Site) -> None:
    asked: dict[str, Any] = {
        "model": "demo/one", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]
    }  # fmt: skip
    with pytest.raises(anthropic.AuthenticationError):
        site.anthropic("lry_none_none").messages.create(**asked)
    with pytest.raises(anthropic.NotFoundError) as unknown:
        site.anthropic().messages.create(**asked | {"model": "demo/none"})
    assert unknown.value.request_id
    with pytest.raises(anthropic.BadRequestError, match="thinking"):
        site.anthropic().messages.create(
            **asked, thinking={"type": "enabled", "budget_tokens": 1_024}
        )
    with pytest.raises(anthropic.BadRequestError) as long:
        site.anthropic().messages.create(
            **asked | {"messages": [{"role": "user", "content": "x" * 3_000}]}
        )
    told: Any = long.value.body
    assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")


class Coded(Schema):
    """What an app wants of a model of any size."""

    code: Literal["fever", "cough"]
    sure: bool


def test_structured_outputs_of_a_small_model_are_json_and_end(site: Site) -> None:
    client = site.openai()
    messages: Any = [{"role": "user", "content": "Which?"}]
    parsed = client.chat.completions.parse(
        model="demo/one", messages=messages, response_format=Coded, max_tokens=64
    )
    found = parsed.choices[0].message.parsed
    assert found is not None
    assert parsed.choices[0].finish_reason == "stop"
    assert "\n" not in (parsed.choices[0].message.content or "")
    schema = Coded.model_json_schema()
    said = site.anthropic().messages.create(
        model="demo/one",
        max_tokens=64,
        messages=messages,
        extra_body={"output_config": {"format": {"type": "json_schema", "schema": schema}}},
    )
    Coded.model_validate_json(said.content[0].text)  # type: ignore[union-attr]
    batch = site.batch(
        [
            body(
                "demo/two",
                max_tokens=64,
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "coded", "schema": schema, "strict": True},
                },
            )
        ]
    )
    (row,) = site.rows(site.ended(batch.id).output_file_id)
    Coded.model_validate_json(row["response"]["body"]["choices"][0]["message"]["content"])


def test_no_prompt_and_no_answer_is_logged(site: Site) -> None:
    assert '"event":"batch"' in site.logs()
    assert SECRET not in site.logs()
