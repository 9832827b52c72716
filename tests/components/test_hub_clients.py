"""Unmodified Hugging Face clients against a running registry on real S3."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest

from registry.client import RegistryClient
from registry.maintain.verify import verify
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import ObjectStore, open_store
from tests.support.adapters import TINY, write_adapter
from tests.support.hub_site import environment, outcomes, prepare
from tests.support.s3 import BUCKET, S3Server
from tests.support.servers import registry_server

VERSIONS = [(None, ""), ("0.30.2", "hf "), ("0.36.2", "hf "), ("1.33.0", "hf ")]
"""huggingface_hub at changes of its protocol, None for that of the environment, and calls to leave
out: the commands take longest. All calls of all versions: `python -m benchmarks.hub_clients`."""


class Hub:
    """A registry as the Hub's clients see it."""

    def __init__(self, url: str, operator: RegistryClient, store: ObjectStore) -> None:
        self.url, self.operator, self.store = url, operator, store
        self.domains = (f"domain-{number}" for number in count(1))

    def domain(self) -> tuple[str, str]:
        """A new domain and a key that publishes there."""
        domain = next(self.domains)
        self.operator.execute(CreateDomain(domain, Policy(guarded=())))
        return domain, self.operator.issue_key("a team", [f"publish:{domain}"])["key"]

    def run(
        self, key: str, work: Path, code: list[str], version: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *code],
            env=environment(self.url, key, work, version),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )


@pytest.fixture(scope="module")
def hub(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    url = f"s3://{BUCKET}/{folder.name}"
    store = open_store(url, s3_endpoint=s3.endpoint)
    operator = Registry.create(store, name="hub", key_name="operator").text
    with registry_server(url, folder) as served, RegistryClient(served, operator) as client:
        client.add_base(TINY)
        yield Hub(served, client, store)


@pytest.mark.parametrize(("version", "unwanted"), VERSIONS)
def test_every_call_works_or_is_refused_in_words_that_the_client_shows(
    hub: Hub, tmp_path: Path, version: str | None, unwanted: str
) -> None:
    scene, key = prepare(hub.operator, next(hub.domains), tmp_path)
    seen = {
        made["call"]: made for made in outcomes(hub.url, key, scene, version, unwanted=unwanted)
    }
    assert not [made for made in seen.values() if made["outcome"] == "fault"]
    assert seen["upload_folder to a new adapter"]["outcome"] == "works"
    elsewhere = {name for name, made in seen.items() if "huggingface.co" in made["outcome"]}
    assert elsewhere <= {"ModelCard.push_to_hub", "metadata_update", "jobs"}
    assert not elsewhere or version is not None, "the current version asks the registry alone"
    assert verify(hub.store).sound


FOLDER = """
import sys
import huggingface_hub as hub

repo, folder, how = sys.argv[1:]
if how == "large":
    hub.HfApi().upload_large_folder(repo, folder, repo_type="model", num_workers=1)
else:
    hub.HfApi().upload_folder(
        repo_id=repo, folder_path=folder, ignore_patterns=["_*", "checkpoint-*"]
    )
"""


@pytest.mark.parametrize(
    ("version", "how"), [(None, "folder"), ("0.30.2", "folder"), ("0.36.2", "large")]
)
def test_a_trainers_folder_becomes_a_new_adapters_first_version(
    hub: Hub, tmp_path: Path, version: str | None, how: str
) -> None:
    folder = write_adapter(tmp_path / "adapter", seed=1)
    names = {path.name for path in folder.iterdir()}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    (folder / "training_args.bin").write_bytes(b"\x80\x04a pickle")
    (folder / "last-checkpoint").mkdir()
    (folder / "last-checkpoint" / "optimizer.pt").write_bytes(b"\x80\x04a pickle")
    (folder / "runs" / "1").mkdir(parents=True)
    (folder / "runs" / "1" / "events.out.tfevents.1").write_bytes(b"x")
    domain, key = hub.domain()
    code = ["-c", FOLDER, f"{domain}/new", str(folder), how]
    done = hub.run(key, tmp_path, code, version)
    assert done.returncode == 0, done.stderr
    published = hub.operator.resolve(f"{domain}/new@1")
    assert {file["path"] for file in published["files"]} == names


PEFT = """
import sys
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
shape = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, num_hidden_layers=2)
base = LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=2, **shape))
config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
model = get_peft_model(base, config)
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(parameter)
model.peft_config["default"].base_model_name_or_path = "tiny"
tokens = torch.arange(8)[None]
before = model(tokens).logits
model.push_to_hub(sys.argv[1], commit_message="From PEFT")
again = PeftModel.from_pretrained(model.unload(), sys.argv[1], revision="1")
assert torch.allclose(before, again(tokens).logits)
assert not torch.allclose(before, again.unload()(tokens).logits)
print("the same")
"""


def test_peft_pushes_a_model_and_loads_it_back_by_version(hub: Hub, tmp_path: Path) -> None:
    domain, key = hub.domain()
    done = hub.run(key, tmp_path, ["-c", PEFT, f"{domain}/coder"])
    assert done.returncode == 0, done.stderr
    assert "the same" in done.stdout
    version = hub.operator.resolve(f"{domain}/coder@1")
    assert version["facts"]["rank"] == 4
    assert version["message"] == "From PEFT"


TRL = """
import sys
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

shape = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, num_hidden_layers=2)
base = LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=2, **shape))
base.name_or_path = base.config._name_or_path = "tiny"
words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "a": 2, "b": 3}, unk_token="<pad>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
trainer = SFTTrainer(
    base,
    args=SFTConfig(
        output_dir=sys.argv[2], hub_model_id=sys.argv[1], push_to_hub=True,
        hub_strategy="checkpoint", max_steps=2, save_steps=1, learning_rate=0.01,
        use_cpu=True, bf16=False, report_to=[],
    ),
    train_dataset=Dataset.from_list([{"text": "a b a b"}] * 8),
    processing_class=PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
    ),
    peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
)
trainer.train()
print(trainer.push_to_hub(commit_message="Trained by TRL", tags=["demo"]))
"""


def test_a_trainers_push_to_hub_publishes_with_its_message(hub: Hub, tmp_path: Path) -> None:
    domain, key = hub.domain()
    code = ["-c", TRL, f"{domain}/coder", str(tmp_path / "out")]
    done = hub.run(key, tmp_path, code)
    assert done.returncode == 0, done.stderr
    versions = hub.operator.adapter(f"{domain}/coder")["versions"]
    assert versions[-1]["message"] == "Trained by TRL"
    assert versions[0]["message"].startswith("Training in progress")


def test_git_lfs_tickets_take_only_what_they_name(hub: Hub) -> None:
    domain, key = hub.domain()
    data = os.urandom(1000)
    oid = hashlib.sha256(data).hexdigest()
    objects = [{"oid": oid, "size": 1000}]
    headers = {"Authorization": f"Bearer {key}"}
    batch = f"{hub.url}/{domain}/coder.git/info/lfs/objects/batch"
    body = {"operation": "upload", "transfers": ["basic"], "objects": objects}
    (answer,) = httpx.post(batch, json=body, headers=headers).json()["objects"]
    href = answer["actions"]["upload"]["href"]
    assert httpx.put(href, content=os.urandom(1000)).status_code == 422
    assert httpx.put(href, content=data + b"x").status_code == 413
    forged = href[:-1] + ("1" if href[-1] == "0" else "0")
    assert httpx.put(forged, content=data).status_code == 401
    assert httpx.put(href.replace("-1000.", "-2000."), content=data).status_code == 401
    assert httpx.put(href, content=data).status_code == 200
    (answer,) = httpx.post(batch, json=body, headers=headers).json()["objects"]
    assert "actions" not in answer
    elsewhere = f"{hub.url}/elsewhere/coder.git/info/lfs/objects/batch"
    assert httpx.post(elsewhere, json=body, headers=headers).status_code == 403
