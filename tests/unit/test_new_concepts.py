"""The example of docs/design/013: from one module follow endpoint, clients, log and audit."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "design" / "013-commands-and-events.md"

USE = """
import json, sys
sys.path[:0] = [{folder!r}, {root!r}]
import notes  # before what is derived from the definitions
import httpx
from fastapi.testclient import TestClient
from registry.audit import described
from registry.cli.commands import read_command
from registry.client.verbs import request_of
from registry.http import create_app
from registry.log.commits import CommitLog
from registry.maintain.verify import verify
from registry.model.access import Secret
from registry.model.catalog import Grant
from registry.model.domains import CreateDomain
from registry.model.keys import IssueKey
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import open_store
from tests.support.catalogs import publish_bytes

store = open_store({store!r})
operator = Registry.create(store, name="r", key_name="op")
registry = Registry(store)
registry.execute(CreateDomain("medical"), operator.id)
publish_bytes(registry, operator.id, "medical", "coder", 1)
reviewer = Secret.generate()
grants = (Grant("review", "medical"), Grant("audit", "*"))
registry.execute(IssueKey(reviewer.id, "ada", reviewer.digest, grants), operator.id)
registry.close()

app = create_app(RegistrySettings(store={store!r}, session_secret="s" * 32))
client = TestClient(app, headers={{"Authorization": f"Bearer {{reviewer.text}}"}})
fields = ["domain=medical", "adapter=coder", "version=1", "note=seen"]
command = read_command(notes.LeaveNote, fields)
method, path, body = request_of(command)
answer = client.request(method, "/api/v1" + path, json=body)
assert answer.status_code == 200, answer.text
assert answer.json()["flags"] == [f"{{reviewer.id}}: seen"], answer.json()["flags"]
assert client.request(method, "/api/v1" + path, json=body).json()["flags"] == answer.json()["flags"]
assert client.request(method, "/api/v1" + path, json={{"note": "x" * 2000}}).status_code == 400
document = client.get("/openapi.json").json()
assert "/api/v1/adapters/{{domain}}/{{adapter}}/versions/{{version}}/notes" in document["paths"]
last = client.get("/api/v1/log").json()[-1]["entries"][-1]["event"]
assert last["type"] == "NoteLeft" and ("note", "seen") in described(last)
report = verify(store)
assert report.sound, report
print("all follows")
"""


def test_an_event_is_added_by_one_module_and_the_rest_follows(tmp_path: Path) -> None:
    (module,) = re.findall(r"```python\n(.*?)```", EXAMPLE.read_text(), re.DOTALL)
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "notes.py").write_text(module)
    code = USE.format(folder=str(folder), root=str(ROOT), store=str(tmp_path / "store"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("all follows\n"), done.stderr[-2000:]
