"""`make demo`: from nothing to adapters that answer, with the commands that a team would type.

Every step is an ordinary `lorary` command, printed as it runs. What took long is kept under
LORARY_HOME and used again. Ctrl-C ends everything that was started, and so does any other way to
end the demo.
"""

import argparse
import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import openai
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adapters.children import end_on_signals, first_to_end, started
from adapters.errors import LoraryError
from adapters.home import SMALL_MODEL, SMALL_MODEL_KNOWN_AS, home
from adapters.packs import PACKS, DomainPack
from adapters.recipe import parse_recipe
from adapters.tasks import read
from registry.maintain.private_file import replacing

DEMO = home() / "demo"

EXPERTS = ("Dr Adams", "Dr Brown")
"""Who may judge the answers in the review that the demo opens."""

console = Console()


def main() -> None:
    """Run the demo; see `--help`. However it ends, its servers end."""
    options = parse_options()
    end_on_signals()
    with contextlib.ExitStack() as running:
        try:
            run(options, running)
        except (Failed, LoraryError, OSError) as failure:
            with contextlib.suppress(OSError):
                console.print(str(failure), style="red", highlight=False, markup=False)
            sys.exit(1)
        finally:
            with contextlib.suppress(OSError):  # the terminal may be closed
                console.print("\nStopping the servers ...")


def parse_options() -> argparse.Namespace:
    """The demo's few options."""
    parser = argparse.ArgumentParser(
        prog="make demo", epilog='Example: make demo ARGS="--fast --port 9000"'
    )
    parser.add_argument("--fast", action="store_true", help="train one adapter instead of three")
    parser.add_argument(
        "--task", type=Path, action="append", default=[], metavar="FOLDER",
        help="a task's folder with a recipe.yaml, instead of the shipped domains; may be repeated",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=8000, help="the OpenAI API's port")
    parser.add_argument("--registry-port", type=int, default=8100, help="the registry's port")
    parser.add_argument("--once", action="store_true", help="end after the questions")
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


class Failed(Exception):
    """A step that did not work; its output shows why."""


class Clock:
    """What each part of the demo took, in seconds."""

    def __init__(self, started: float | None) -> None:
        self.began = started or time.time()
        self.parts: list[tuple[str, float]] = []
        if started is not None:
            self.parts.append(("environment (Python packages)", time.time() - started))

    @contextlib.contextmanager
    def part(self, title: str) -> Iterator[None]:
        """Announce a part and time it."""
        console.rule(f"[bold]{title}", align="left")
        began = time.time()
        yield
        self.parts.append((title, time.time() - began))

    def show(self) -> None:
        """Print the parts and the whole."""
        table = Table("part", "seconds", title="What it took")
        table.columns[1].justify = "right"
        for title, seconds in self.parts:
            table.add_row(title, f"{seconds:.1f}")
        table.add_section()
        table.add_row("from `make demo` to the answers", f"{time.time() - self.began:.1f}")
        console.print(table)


def run(options: argparse.Namespace, running: contextlib.ExitStack) -> None:
    """The whole demo, in the order in which a team would do it."""
    clock = Clock(options.started)
    registry_url = f"http://127.0.0.1:{options.registry_port}"
    api_url = f"http://127.0.0.1:{options.port}"
    os.environ["LORARY_REGISTRY_URL"] = registry_url
    refuse_taken(options.port, options.registry_port)

    with clock.part("small base model"):
        model = lorary("small-model", "--json")["path"]
    trained = set()
    shown = examples(options.task)[: 1 if options.fast else None]
    for one in shown:
        with clock.part(f"train {one.adapter}"):
            if train(one):
                trained.add(one.domain)
    with clock.part("registry: create, publish, promote"):
        open_registry()
        registry = start_registry(running, options.registry_port)
        publish_all(model, shown, trained)
    with clock.part("start vLLM with the gateway"):
        app_key = issue_key("demo-app", "infer:*")
        os.environ["LORARY_SERVING_KEY"] = issue_key("demo-server", "serve:*")
        server = start_server(running, options.port)
    with clock.part("one question for each domain"):
        ask_all(api_url, app_key, shown)
    os.environ["LORARY_API_URL"] = f"{api_url}/v1"
    with clock.part("evaluate, open a review"):
        give_evidence(shown[0])
    clock.show()
    write_files(api_url, registry_url, app_key, shown[0])
    show_what_runs(api_url, registry_url, shown)
    if not options.once:
        console.print("Press Ctrl-C to stop everything.")
        ended = first_to_end((registry, server))
        name = "registry" if ended is registry else "vLLM"
        log = DEMO / ("registry.log" if ended is registry else "serve.log")
        raise Failed(f"The {name} ended by itself with code {ended.returncode}. See {log}")


@dataclass(frozen=True, slots=True)
class Example:
    """One domain's adapter: how it is trained, what judges it, and what the demo asks it."""

    domain: str
    adapter: str
    """DOMAIN/NAME."""
    trained_by: tuple[str, ...]
    """What follows `lorary train`."""
    evaluated_by: tuple[str, ...]
    """What follows `lorary eval REF`."""
    ask: Callable[[], tuple[str, str]]
    """A held-out question, as it is asked, and its reference answer."""


def examples(folders: Sequence[Path]) -> list[Example]:
    """An example of each task's folder; of each shipped domain if there is no folder.

    Raises `Failed` for what is no task, for one without a recipe, and for two of one domain.
    """
    if not folders:
        return [_shipped(pack) for pack in PACKS.values()]
    found = [_of_folder(folder) for folder in folders]
    if len({one.domain for one in found}) < len(found):
        raise Failed("Two of the tasks are for one domain. Name one of them.")
    return found


def _shipped(pack: DomainPack) -> Example:
    def ask() -> tuple[str, str]:
        item = pack.demo_question
        return pack.question(item), item.label

    suite = ("--suite", f"{pack.domain}-task")
    path = f"{pack.domain}/{pack.adapter}"
    return Example(pack.domain, path, (pack.domain,), suite, ask)


def _of_folder(folder: Path) -> Example:
    try:
        task = read(folder)
        adapter = parse_recipe(task.recipe or "").adapter
        held_out = task.side("held_out")
    except LoraryError as error:
        raise Failed(f"{folder}: {error}") from error
    if not held_out:
        raise Failed(
            f"{folder}: No item is held out, so nothing can be asked. See split in task.yaml."
        )
    domain, _, _ = adapter.partition("/")

    def ask() -> tuple[str, str]:
        return task.prompt(held_out[0]), held_out[0].target

    by = ("--task", str(folder))
    return Example(domain, adapter, by, by, ask)


def train(example: Example) -> bool:
    """Train one adapter, or keep the one that the same recipe, data and base made before. Returns
    whether it was trained now."""
    directory = adapter_directory(example.domain)
    weights = directory / "adapter_model.safetensors"
    before = weights.stat().st_mtime_ns if weights.exists() else None
    lorary("train", *example.trained_by, "--out", str(directory), "--reuse", shown=True)
    return weights.exists() and weights.stat().st_mtime_ns != before


def adapter_directory(domain: str) -> Path:
    """Where the demo keeps a trained adapter."""
    return DEMO / "adapters" / domain


def open_registry() -> None:
    """Create the registry, unless an earlier demo did, and use its operator's key."""
    file = key_file("operator")
    if not file.exists():
        lorary("init", "--name", "demo", "--key-file", str(file), shown=True)
    os.environ["LORARY_KEY"] = file.read_text().strip()


def start_registry(running: contextlib.ExitStack, port: int) -> subprocess.Popen[bytes]:
    """Start the registry's service and wait until it answers."""
    log = running.enter_context((DEMO / "registry.log").open("wb"))
    server = start(running, ["serve-registry", "--port", str(port)], log)
    wait_until_healthy(f"http://127.0.0.1:{port}/health", server, log, seconds=30)
    return server


def publish_all(model: str, shown: Sequence[Example], trained: Collection[str]) -> None:
    """Publish every adapter that the registry lacks, and promote it to `production`.

    trained: domains whose adapters were trained now. One that is published already gets a new
    version; policies and aliases stay as they are, for they may have been changed since.
    """
    lorary("base", "add", model, "--name", SMALL_MODEL, "--known-as", SMALL_MODEL_KNOWN_AS)
    known = {adapter["path"]: adapter for adapter in lorary("ls", "--json")}
    domains = {path.partition("/")[0] for path in known}
    defaults = {path.partition("/")[0] for path, adapter in known.items() if adapter["default"]}
    for one in shown:
        domain, path = one.domain, one.adapter
        directory = str(adapter_directory(domain))
        if path not in known:
            if domain not in domains:
                lorary("domain", "create", domain, "--no-guard", shown=True)
            lorary("push", directory, path, "--alias", "production", shown=True)
        elif domain in trained:
            lorary("push", directory, path, shown=True)
        else:
            console.print(f"{path} is published already.", highlight=False)
        if path in known and not known[path]["moves"]:  # a start that ended after its push
            lorary("alias", "set", f"{path}@1", "production", shown=True)
        if path not in known or domain not in defaults:
            lorary("domain", "default", domain, path.partition("/")[2], shown=True)


def issue_key(name: str, *grants: str) -> str:
    """A key that may do what one person or program does here, and nothing else."""
    options = [word for grant in grants for word in ("--grant", grant)]
    issued = lorary("key", "issue", name, *options, "--json")
    return str(issued["key"])


def start_server(running: contextlib.ExitStack, port: int) -> subprocess.Popen[bytes]:
    """Start vLLM with the gate and wait until it answers."""
    log = running.enter_context((DEMO / "serve.log").open("wb"))
    server = start(running, ["serve", "--port", str(port)], log)
    with console.status("vLLM starts; about a minute"):
        wait_until_healthy(f"http://127.0.0.1:{port}/health", server, log, seconds=300)
    return server


def ask_all(api_url: str, key: str, shown: Sequence[Example]) -> None:
    """One question per domain, to its specialist and to the base model, side by side."""
    client = openai.OpenAI(base_url=f"{api_url}/v1", api_key=key)
    for one in shown:
        console.print(ask(client, one))


def ask(client: openai.OpenAI, example: Example) -> Table:
    """The demo question of one domain, answered twice."""
    question, reference = example.ask()
    table = Table(title=escape(question), title_justify="left", show_lines=True)
    table.add_column("model, and what served it", no_wrap=True)
    table.add_column("answer")
    for model in (example.domain, SMALL_MODEL):
        try:
            reply = client.chat.completions.with_raw_response.create(
                model=model,
                messages=[{"role": "user", "content": question}],
                temperature=0,
                max_completion_tokens=60,
            )
        except openai.APIStatusError as error:  # such as a version that was revoked
            table.add_row(f"[bold]{model}[/bold]", f"[yellow]{escape(error.message)}[/yellow]")
            continue
        answer = (reply.parse().choices[0].message.content or "").strip()
        verdict = (
            "[green]right[/green]"
            if answer == reference
            else "[yellow]not the reference answer[/yellow]"
        )
        served_by = reply.headers.get("x-lorary-adapter", "the base model")
        table.add_row(f"[bold]{model}[/bold]\n{served_by}", f"{escape(answer)}\n{verdict}")
    table.caption = f"The reference answer: {escape(reference)}"
    return table


def give_evidence(example: Example) -> None:
    """Evaluate version 1 and open a review of its answers, each unless that was done before.

    By others than the publisher, whose evidence would not count.
    """
    ref, domain = f"{example.adapter}@1", example.domain
    for expert in EXPERTS:
        if not key_file(expert).exists():  # with every domain's: a later start may show another
            write(key_file(expert), issue_key(expert, "review:*", "approve:*"))
    evaluated = bool(lorary("show", ref, "--json")["evaluations"])
    opened = evaluated and is_reviewed(example)
    if evaluated:
        console.print(f"{ref} is evaluated already.", highlight=False)
    if opened:
        return
    key = issue_key("evaluator", f"infer:{domain}", f"evaluate:{domain}")
    write(key_file("evaluator"), key)
    if not evaluated:
        lorary("eval", ref, *example.evaluated_by, "--n", "20", shown=True, key=key)
    lorary("review", "open", ref, "--n", "5", "--title", "Five answers", shown=True, key=key)


def is_reviewed(example: Example) -> bool:
    """Whether there is a review of version 1, or one whose versions the operator may not see."""
    name = example.adapter.partition("/")[2]
    return any(
        (review["domain"], review.get("adapter", name)) == (example.domain, name)
        and 1 in review.get("versions", (1,))
        for review in lorary("review", "ls", "--json")
    )


def key_file(person: str) -> Path:
    """The file of a person's key."""
    return DEMO / f"{person.lower().replace(' ', '-')}.key"


def write_files(api_url: str, registry_url: str, key: str, example: Example) -> None:
    """Write what a second terminal needs: settings for commands, and the API in curl and Python."""
    variables = {
        "PATH": f"{Path(program()).parent}:$PATH",
        "LORARY_HOME": str(home().absolute()),
        "LORARY_REGISTRY_URL": registry_url,
        "LORARY_API_URL": f"{api_url}/v1",
        "LORARY_KEY": f"$(cat '{key_file('operator').absolute()}')",
    }
    exports = "".join(f'export {name}="{value}"\n' for name, value in variables.items())
    domain, (question, _) = example.domain, example.ask()
    messages = [{"role": "user", "content": question}]
    body = json.dumps({"model": domain, "temperature": 0, "messages": messages})
    curl = (
        f"curl {api_url}/v1/chat/completions -H 'Authorization: Bearer {key}' \\\n"
        f"  -H 'Content-Type: application/json' -d {shlex.quote(body)}\n"
    )
    python = (
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{api_url}/v1", api_key="{key}")\n'
        f"messages = {messages!r}\n"
        "create = client.chat.completions.create\n"
        f'answer = create(model="{domain}", temperature=0, messages=messages)\n'
        "print(answer.choices[0].message.content)\n"
    )
    for name, text in {"environment.sh": exports, "ask.sh": curl, "ask.py": python}.items():
        write(DEMO / name, text)


def write(file: Path, text: str) -> None:
    """Write a file that only its owner can read, whoever could read one that was there before."""
    with replacing(file) as new:
        new.write(text.encode())


def show_what_runs(api_url: str, registry_url: str, shown: Sequence[Example]) -> None:
    """What is running, where to click and what to type next, on one screen."""
    folder = DEMO.absolute()
    first = shown[0]
    ref = f"{first.adapter}@production"
    paths = ", ".join(one.adapter for one in shown)
    console.rule("Lorary is running", align="left")
    lines = (
        "Open in a browser",
        f"  {registry_url}/{first.adapter}    its evaluation",
        f"    sign in as operator:  cat {folder}/operator.key",
        f"  {registry_url}/reviews    answers that wait for an expert's judgement",
        f"    sign in as {EXPERTS[0]}:  cat {key_file(EXPERTS[0]).absolute()}",
        "",
        "Type in a second terminal",
        f"  source {folder}/environment.sh      # commands, addresses and the operator key",
        f"  sh {folder}/ask.sh                  # one question; ask.py is the same in Python",
        "  lorary ls                               # what is published",
        f"  lorary show {ref}",
        f"  lorary gate {ref}",
        "  lorary --help",
        "",
        f"OpenAI API {api_url}/v1   registry {registry_url}   logs {folder}/*.log",
        f"Adapters   {paths}",
        "Only the first was evaluated, on 20 questions. Do not rely on the answers.",
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def lorary(*arguments: str, shown: bool = False, key: str = "") -> Any:
    """Run one `lorary` command, with another's key if one is given. Its JSON answer if it was asked
    for one, else None."""
    if shown:
        console.print(f"$ lorary {' '.join(arguments)}", style="dim", highlight=False, markup=False)
    as_json = "--json" in arguments
    done = subprocess.run(
        [program(), *arguments],
        env={**os.environ, "LORARY_KEY": key} if key else None,
        stdout=subprocess.PIPE if as_json else None, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise Failed(f"`lorary {arguments[0]}` failed; its message is above.")
    return json.loads(done.stdout) if as_json else None


def program() -> str:
    """The `lorary` command of this very environment."""
    return str(Path(sys.executable).with_name("lorary"))


def start(
    running: contextlib.ExitStack, arguments: list[str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """A server that runs `lorary ARGUMENTS` in the background, ended with `running`."""
    console.print(
        f"$ lorary {' '.join(arguments)}    [dim](log: {escape(log.name)})[/dim]", highlight=False
    )
    return running.enter_context(started([program(), *arguments], log))


def wait_until_healthy(
    url: str, process: subprocess.Popen[bytes], log: IO[bytes], *, seconds: float
) -> None:
    """Return when `url` answers 200; raises `Failed` if the process ends or time runs out."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=2).status_code == 200:
                return
        time.sleep(0.2)
    tail = "".join(Path(log.name).read_text(errors="replace").splitlines(keepends=True)[-20:])
    raise Failed(f"The server did not become healthy. The end of {log.name}:\n{tail}")


def refuse_taken(*ports: int) -> None:
    """Raises `Failed` for a port that nothing can listen on, or that is named twice."""
    with contextlib.ExitStack() as held:
        for port in ports:
            try:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or error
                raise Failed(
                    f"Port {port} cannot be used ({reason}). End what listens there, or choose "
                    'another: make demo ARGS="--port 9000 --registry-port 9100"'
                ) from error


if __name__ == "__main__":
    main()
