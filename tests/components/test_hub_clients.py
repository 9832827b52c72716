"""Unmodified Hugging Face clients against a running registry on real S3."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.client import RegistryClient
from registry.maintain.verify import verify
from registry.model.aliases import MoveAlias
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import ObjectStore, open_store
from tests.support.adapters import TINY, write_adapter
from tests.support.s3 import BUCKET, S3Server
from tests.support.servers import registry_server

HOME = Path(os.environ.get("LORARY_HOME") or Path(__file__).parents[2] / ".cache" / "lorary")
OLDER = ("0.25.2", "0.34.4", "0.36.2", "1.33.0")
"""Versions of huggingface_hub that people still run, beside the current one of the environment."""


class Hub:
    """A registry as the Hub's clients see it, with a publisher's key."""

    def __init__(self, url: str, operator: RegistryClient, key: str, store: ObjectStore) -> None:
        self.url, self.operator, self.key, self.store = url, operator, key, store

    def run(self, code: list[str], path: str = "") -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.key,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": path,
        }
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, *code]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=300
        )


@pytest.fixture
def hub(s3: S3Server, tmp_path: Path) -> Iterator[Hub]:
    url = f"s3://{BUCKET}/{tmp_path.name}"
    store = open_store(url, s3_endpoint=s3.endpoint)
    operator = Registry.create(store, name="hub", key_name="operator").text
    with registry_server(url, tmp_path) as served, RegistryClient(served, operator) as client:
        client.execute(CreateDomain("medical", Policy(guarded=())))
        client.execute(CreateDomain("legal", Policy(guarded=())))
        client.add_base(TINY)
        key = client.issue_key("a team", ["publish:medical"])["key"]
        yield Hub(served, client, key, store)


def older_hub(version: str) -> str:
    """A folder that holds that version; the rest of the environment serves it."""
    folder = HOME / "hubs" / version
    if not (folder / "huggingface_hub").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--target", str(folder), f"huggingface_hub=={version}"]
        subprocess.run(command, check=True)
    return str(folder)


@pytest.mark.parametrize("version", ["current", *OLDER])
def test_huggingface_hub_publishes_fetches_and_looks_around(
    hub: Hub, tmp_path: Path, version: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", seed=1)
    hub.operator.push(adapter, "medical/coder")
    hub.operator.execute(MoveAlias("medical", "coder", "live", 1))
    hub.operator.push(write_adapter(tmp_path / "other", seed=2), "medical/unrelated")
    changed = write_adapter(tmp_path / "changed", seed=3)
    path = "" if version == "current" else older_hub(version)
    done = hub.run(["-m", "tests.support.hub_user", str(changed), str(tmp_path)], path)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if version != "current":
        assert seen["version"] == version
    assert seen["who"] == "a team"
    assert seen["new"] == f"{hub.url}/medical/coder"
    versions = {n: hub.operator.resolve(f"medical/coder@{n}") for n in (1, 2, 3)}
    assert seen["first"] == versions[2]["digest"][:40]
    assert seen["second"] == versions[3]["digest"][:40]
    assert seen["snapshot"] == {f["path"]: f["size"] for f in versions[1]["files"]}
    assert seen["card by alias"] == (adapter / "README.md").read_text()
    names = sorted(f["path"] for f in versions[2]["files"])
    assert seen["info"] == ["medical/coder", seen["first"], names]
    assert seen["listed"] == ["medical/coder"]
    assert seen["tagged"] == ["medical/coder", "medical/unrelated"]
    assert seen["files"] == names
    assert seen["tags"] == ["1", "2", "3", "live"]
    assert seen["exists"] == [True, False, False, False]
    refusals = seen["refusals"]
    assert "can run code" in refusals["pickle"]
    assert "legal" in refusals["elsewhere"]
    assert "RevisionNotFound" in refusals["revision"]
    assert "pull requests" in refusals["pull request"]
    assert verify(hub.store).sound


FOLDER = """
import json, sys
import huggingface_hub as hub

api = hub.HfApi()
folder, how = sys.argv[1:]
if how == "large":
    api.upload_large_folder("medical/new", folder, repo_type="model", num_workers=1)
else:
    hub.HfApi().upload_folder(
        repo_id="medical/new", folder_path=folder, ignore_patterns=["_*", "checkpoint-*"]
    )
"""


@pytest.mark.parametrize(
    ("version", "how"),
    [("current", "folder"), ("0.30.2", "folder"), ("0.34.4", "folder"), ("0.36.2", "large")],
)
def test_a_trainers_folder_becomes_a_new_adapters_first_version(
    hub: Hub, tmp_path: Path, version: str, how: str
) -> None:
    folder = write_adapter(tmp_path / "adapter", seed=1)
    names = {path.name for path in folder.iterdir()}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    (folder / "training_args.bin").write_bytes(b"\x80\x04a pickle")
    (folder / "runs" / "1").mkdir(parents=True)
    (folder / "runs" / "1" / "events.out.tfevents.1").write_bytes(b"x")
    path = "" if version == "current" else older_hub(version)
    done = hub.run(["-c", FOLDER, str(folder), how], path)
    assert done.returncode == 0, done.stderr
    published = hub.operator.resolve("medical/new@1")
    assert {file["path"] for file in published["files"]} == names


CARD = """
from huggingface_hub import metadata_update

metadata_update("medical/coder", {"license": "mit"}, overwrite=True)
"""


def test_a_cards_metadata_is_updated_as_the_next_version(hub: Hub, tmp_path: Path) -> None:
    hub.operator.push(write_adapter(tmp_path / "adapter", seed=1), "medical/coder")
    hub.operator.execute(MoveAlias("medical", "coder", "production", 1))
    done = hub.run(["-c", CARD])
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    hub.operator.pull("medical/coder@2", out)
    assert "license: mit" in (out / "README.md").read_text()


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
model.push_to_hub("medical/coder")
again = PeftModel.from_pretrained(model.unload(), "medical/coder", revision="1")
assert torch.allclose(before, again(tokens).logits)
assert not torch.allclose(before, again.unload()(tokens).logits)
print("the same")
"""


def test_peft_pushes_a_model_and_loads_it_back_by_version(hub: Hub) -> None:
    done = hub.run(["-c", PEFT])
    assert done.returncode == 0, done.stderr
    assert "the same" in done.stdout
    version = hub.operator.resolve("medical/coder@1")
    assert version["facts"]["rank"] == 4


def test_git_lfs_tickets_take_only_what_they_name(hub: Hub, tmp_path: Path) -> None:
    data = os.urandom(1000)
    oid = hashlib.sha256(data).hexdigest()
    objects = [{"oid": oid, "size": 1000}]
    headers = {"Authorization": f"Bearer {hub.key}"}
    batch = f"{hub.url}/medical/coder.git/info/lfs/objects/batch"
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
    elsewhere = f"{hub.url}/legal/coder.git/info/lfs/objects/batch"
    assert httpx.post(elsewhere, json=body, headers=headers).status_code == 403
