"""A registry's service, and those who work with it from a shell and from Python."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from typer.testing import CliRunner

from registry.cli import build
from registry.client import RegistryClient
from registry.store import LocalStore
from tests.support.servers import BIN


@dataclass
class Desk:
    """Where the service listens, a client for each of three keys, and the keys by name."""

    url: str
    operator: RegistryClient
    team: RegistryClient
    meter: RegistryClient
    keys: dict[str, str]
    store: LocalStore

    def run(
        self, *arguments: str, who: str = "operator", **more: str
    ) -> subprocess.CompletedProcess[str]:
        """A `lorary` command with the key of `who`."""
        variables = {"LORARY_REGISTRY_URL": self.url, "LORARY_KEY": self.keys[who], **more}
        return subprocess.run(
            [str(BIN / "lorary"), *arguments],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def act(self, *arguments: str, who: str = "operator", code: int = 0, **more: str) -> str:
        """What a `lorary` command with the key of `who` prints, in this process, which is quicker;
        it ends with `code`."""
        variables = {"LORARY_REGISTRY_URL": self.url, "LORARY_KEY": self.keys[who], **more}
        done = CliRunner().invoke(build(), list(arguments), env={**variables, "COLUMNS": "200"})
        assert done.exit_code == code, (done.output, done.exception)
        return done.stdout

    def page(self, path: str, who: str) -> str:
        """A page of the registry, signed in with the key of `who`."""
        with httpx.Client(base_url=self.url, headers={"Origin": self.url}) as browser:
            form = {"key": self.keys[who], "next": path}
            return browser.post("/login", data=form, follow_redirects=True).text

    def judge_all(self, who: str, review: str, meets: Callable[[str, str], bool]) -> int:
        """Judge what waits for `who` in a review of one version's answers to a rubric; how many.

        meets: whether an answer meets a criterion.
        """
        judged = 0
        with RegistryClient(self.url, self.keys[who]) as expert:
            while (item := expert.next_item(review)["item"]) is not None:
                (answer,) = item["answers"]
                met = [meets(answer, criterion["says"]) for criterion in item["criteria"]]
                expert.judge(review, {"item": item["id"], "met": [met], "severity": 0})
                judged += 1
        return judged
