"""Commands that evaluate a version: eval, report, harness, review open."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from adapters.names import DEFAULT_ALIAS, AdapterRef
from adapters.tasks import TaskFolder
from eval.cli.harness import harness
from eval.cli.options import API_URL, REVIEW_ITEMS, Url
from eval.cli.reporting import named, report, report_file, show, write_report
from eval.cli.suites import shipped_suites, suites_from, usable_task
from eval.errors import NotEvaluated, UnknownSuite, UnpaidLook
from eval.pushed import fetched, newest, required
from registry.cli.output import AsJson, client, emit, escaped, say, warn
from registry.cli.reviewing import GROUP, KeepDays, Title, open_review
from registry.client import RegistryClient
from registry.errors import BadRequest, UnknownAlias
from registry.model.access import Secret
from registry.model.evaluations import BeginEvaluation
from registry.model.evidence import Engine

if TYPE_CHECKING:
    from eval.evaluate import Evaluation
    from eval.heads import HeadSuite


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    app.command("eval", rich_help_panel="Evaluate")(evaluate)
    app.command(rich_help_panel="Evaluate")(report)
    app.command(rich_help_panel="Evaluate")(harness)
    for group in app.registered_groups:
        if group.name == GROUP and group.typer_instance is not None:
            group.typer_instance.command("open")(open_for_experts)


def evaluate(
    ref: Annotated[
        str, typer.Argument(help="DOMAIN/ADAPTER@VERSION; with --all-promoted a domain, or none.")
    ] = "",
    url: Url = API_URL,
    suite: Annotated[
        list[str], typer.Option(help="Only this suite; by default all of the domain.")
    ] = [],  # noqa: B006 - typer copies it
    task: Annotated[
        list[str],
        typer.Option(
            help="A task's folder, or TASK[@VERSION] of the domain's pushed ones, instead of what "
            "the policy names; may be repeated."
        ),
    ] = [],  # noqa: B006 - typer copies it
    n: Annotated[
        int | None,
        typer.Option(min=2, help="At most n items a task: another held-out set."),
    ] = None,
    alias: Annotated[
        str, typer.Option(help="Compare with the version of this alias.")
    ] = DEFAULT_ALIAS,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests at once.")] = 16,
    fresh: Annotated[bool, typer.Option(help="Ignore cached answers.")] = False,
    record: Annotated[
        bool,
        typer.Option(
            help="Record the evaluation in the registry. Suites that the policy names must be "
            "recorded: evaluations on their items are counted."
        ),
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Also write the report: .html, .pdf, .yaml or .json.", callback=report_file
        ),
    ] = None,
    all_promoted: Annotated[
        bool,
        typer.Option(
            "--all-promoted",
            help="Every version that a guarded alias names and that is not evaluated on this "
            "server's engine yet.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a version beside the base model and production, and record the result.

    Questions go through the served API. The key (LORARY_KEY) needs the roles infer and evaluate in
    the domain, and must not be the publisher's. An interrupted run resumes where it stopped. Cached
    answers of the same engine (vLLM's version, base model, dtype, quantisation, settings) are
    reused; the record names the engine and the date of the oldest answer. The look at the
    held-out items is counted before the first question, whether or not the result is recorded.

    A version with a classification head is evaluated through /classify, beside TF-IDF and logistic
    regression on the same items.

    Without --task, the tasks that the domain's policy names are asked, as they were pushed; and the
    suites that Lorary ships for the domain, where the policy names one of them or no task.

    Example: lorary eval medical/icd10-coder@7 --url http://127.0.0.1:8000/v1

    Example: lorary eval medical/icd10-coder@7 --n 50 --suite medical-task --out report.json

    Example: lorary eval radiology/modality@1 --task radiology-modality

    After a change of engine, --all-promoted evaluates every promoted version again. Repeated, it
    goes on where it stopped:

    Example: lorary eval --all-promoted --url http://127.0.0.1:8000/v1
    """
    how = Options(
        url=url, suites=suite, tasks=task, n=n, alias=alias, concurrency=concurrency, fresh=fresh,
        record=record, out=out, quiet=as_json,
    )  # fmt: skip
    if all_promoted:
        from eval.cli.fleet import qualify_promoted

        qualify_promoted(ref, how)
        return
    if not ref:
        raise BadRequest("Name a version, as DOMAIN/ADAPTER@VERSION, or give --all-promoted.")
    with client() as registry:
        found = judge(registry, prepare(registry, ref, how), how)
        name = found.report["version"]["name"]
        asked = registry.requirements(name, alias) if record and not as_json else None
    body = found.body(found.report["version"]["digest"])
    emit(body, as_json, lambda: show(name, found, asked))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How versions are evaluated: the options of `lorary eval`."""

    url: str
    suites: Sequence[str]
    tasks: Sequence[str]
    n: int | None
    alias: str
    concurrency: int
    fresh: bool
    record: bool
    out: Path | None
    quiet: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version, what it will be asked, and the engine that answers."""

    version: dict[str, Any]
    policy: dict[str, Any]
    head: "HeadSuite | None"
    suites: list[Any]
    engine: Engine

    @property
    def is_recorded(self) -> bool:
        """Whether evaluations by all these suites on this engine are recorded."""
        wanted = {(suite.digest, suite.held_out) for suite in self.suites}
        for one in self.version["evaluations"]:
            engine = one["engine"]
            if engine and not msgspec.convert(engine, Engine).differences(self.engine):
                wanted -= {(result["digest"], result["held_out"]) for result in one["results"]}
        return not wanted

    def run_name(self, *, fresh: bool) -> str:
        """The name under which the looks of an evaluation are counted: the same for one that goes
        on, and another one where all answers are collected again."""
        asked = sorted(f"{suite.digest}{suite.held_out}" for suite in self.suites)
        parts = [self.version["digest"], self.engine.fingerprint, *asked]
        if fresh:
            parts.append(secrets.token_hex(16))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def prepare(registry: RegistryClient, ref: str, how: Options) -> Prepared:
    """What evaluating a version takes. Raises `LoraryError`; `NotServed` if the server does not
    serve its base model."""
    from eval.quiet import quiet_libraries

    quiet_libraries()
    from eval.served import engine_of
    from registry.settings import ClientSettings

    version = registry.resolve(ref)
    policy = registry.domain(version["domain"])["policy"]
    head, suites = suites_for(registry, version, how.suites, how.tasks, how.n, policy)
    if not how.record:
        _refuse_unpaid(suites, policy)
    key = ClientSettings().key.get_secret_value()
    engine = engine_of(how.url, key, version["base"])
    if how.record:
        warn_publisher(version, key)
    return Prepared(version, policy, head, suites, engine)


def warn_publisher(version: dict[str, Any], key: str) -> None:
    """Warn whoever evaluates what the same key published: no requirement counts it."""
    if Secret.parse(key).id == version["publisher"]:
        warn(
            f"This key published {version['ref']}: its evaluation is recorded but does not count. "
            "Use the key of somebody else, with the roles infer and evaluate."
        )


def judge(registry: RegistryClient, asked: Prepared, how: Options) -> "Evaluation":
    """Evaluate one version as `lorary eval` does; raises `LoraryError`."""
    from rich.console import Console
    from rich.progress import Progress

    from eval import evaluate as judging
    from eval.asking import Server
    from eval.heads import evaluate_head
    from eval.served import Model
    from registry.settings import ClientSettings

    version, head = asked.version, asked.head
    base = next(b for b in registry.bases() if b["name"] == version["base"])
    path = f"{version['domain']}/{version['adapter']}"
    try:
        current = registry.resolve(f"{path}@{how.alias}")
    except UnknownAlias:
        current = None
    subject = judging.Subject(
        version=Model(version["ref"], version["digest"]),
        base=Model(base["name"], base["digest"], is_base=True),
        production=Model(current["ref"], current["digest"])
        if current and current["digest"] != version["digest"] and not current["revoked"]
        else None,
    )
    key = ClientSettings().key.get_secret_value()
    server = Server(how.url, key, asked.engine, how.concurrency)
    run = asked.run_name(fresh=how.fresh)
    if how.fresh or not asked.is_recorded:
        looks = tuple(sorted({suite.held_out for suite in asked.suites}))
        registry.execute(
            BeginEvaluation(version["domain"], version["adapter"], version["version"],
                            version["digest"], run, looks)
        )  # fmt: skip
    with Progress(console=Console(stderr=True), disable=how.quiet) as bars:
        total = judging.work(asked.suites, subject) if head is None else len(head)
        bar = bars.add_task("asking", total=total)

        def advance(what: str, steps: int) -> None:
            bars.update(bar, advance=steps, description=escaped(what))

        if head is not None:
            found = evaluate_head(
                server, subject.version, subject.base, head, fresh=how.fresh, progress=advance
            )
        else:
            found = judging.evaluate(
                server,
                subject,
                asked.suites,
                target_risk=asked.policy.get("target_risk"),
                fresh=how.fresh,
                progress=advance,
            )
    recorded = None
    if how.record:
        shown = registry.record_evaluation(
            version["ref"], {**found.body(version["digest"]), "run": run}
        )
        recorded = named(shown, shown["evaluations"][-1])
    if how.out is not None:
        requirements = registry.requirements(version["ref"], how.alias)
        write_report(how.out, found.report, requirements, recorded)
    return found


def suites_for(
    registry: RegistryClient,
    version: dict[str, Any],
    names: Sequence[str],
    tasks: Sequence[str],
    n: int | None,
    policy: dict[str, Any],
) -> "tuple[HeadSuite | None, list[Any]]":
    """What a version is asked: the suite of its head, if it has one, and the suites."""
    head = _head_suite(registry, version, names, n, tasks, policy)
    if head is not None:
        return head, [head.suite]
    chosen = _chosen(registry, version["domain"], names, tasks, policy)
    return None, [one.limited(n) for one in chosen] if n is not None else chosen


def open_for_experts(
    ref: Annotated[str, typer.Argument(help="DOMAIN/ADAPTER@VERSION")],
    against: Annotated[
        int | None,
        typer.Option(help="Show this version's answers beside; it was in production then."),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, max=2000, help="Items at most.")] = REVIEW_ITEMS,
    title: Title = None,
    keep_days: KeepDays = None,
    as_json: AsJson = False,
) -> None:
    """Open a blind review of answers from a version's newest evaluation.

    Chosen are items where versions disagree, high-confidence errors, low-confidence answers, and
    some at random.

    Example: lorary review open medical/icd10-coder@8 --against 7 --n 40
    """
    from eval.review_items import choose

    with client() as registry:
        version = registry.resolve(ref)
        if not version["evaluations"]:
            raise NotEvaluated(f"No evaluation of {ref} is recorded. Record one: lorary eval {ref}")
        found = registry.report(version["ref"], version["evaluations"][-1]["report"])
        path = AdapterRef.parse(ref).path
        other = registry.resolve(f"{path}@{against}")["digest"] if against else None
    try:
        items = choose(found, other, n)
    except KeyError as error:
        raise NotEvaluated(
            f"The newest evaluation of {ref} did not ask @{against}. Evaluate it while that is in "
            "production."
        ) from error
    opened = open_review(version["ref"], against, items, title, keep_days)
    done = f"Review {opened['id']}: {opened['items']} items. Experts judge under /reviews."
    emit(opened, as_json, lambda: say(done))


def _chosen(
    registry: RegistryClient,
    domain: str,
    names: Sequence[str],
    tasks: Sequence[str],
    policy: dict[str, Any],
) -> list[Any]:
    """The suites that are asked: of `tasks`, else of those that the policy names.

    names: only these of them.
    """
    rules = policy.get("suites", ())
    asked = [] if tasks else required(registry, domain, rules)
    if not asked:
        asked = suites_from(domain, tasks)
    elif not all(rule.get("task") for rule in rules):
        asked = [*shipped_suites(domain), *asked]
    known = {suite.name: suite for suite in asked}
    for name in names:
        if name not in known:
            raise UnknownSuite(f"There is no suite {name!r}. Choose {', '.join(known)}.")
    return [known[name] for name in names or known]


def _head_suite(
    registry: RegistryClient,
    version: dict[str, Any],
    names: Sequence[str],
    n: int | None,
    tasks: Sequence[str],
    policy: dict[str, Any],
) -> "HeadSuite | None":
    """What a version with a classification head is judged by: of `tasks`, else of the pushed tasks
    that the policy names, the newest pushed ones, or the shipped ones, the first that has its
    labels. None for a version that writes."""
    head, domain = version["facts"].get("head"), version["domain"]
    if head is None:
        return None
    from eval.heads import among, suite_of

    if tasks:
        found = suite_of(domain, head["labels"], [_folder(registry, domain, t) for t in tasks])
    else:
        named = [rule["task"] for rule in policy.get("suites", ()) if rule.get("task")]
        pushed = dict.fromkeys([*named, *newest(registry, domain)])
        folders = (_folder(registry, domain, task) for task in pushed)
        found = among(domain, head["labels"], folders) or suite_of(domain, head["labels"])
    found = found.limited(n)
    for name in names:
        if name != found.suite.name:
            suite = found.suite.name
            raise UnknownSuite(f"A head's suite is {suite}, not {name!r}. Leave --suite out.")
    return found


def _folder(registry: RegistryClient, domain: str, task: str) -> TaskFolder:
    """A task's folder, or the files of a pushed one."""
    if Path(task).is_dir():
        return usable_task(Path(task))
    return fetched(registry, registry.task(f"{domain}/{task}"))


def _refuse_unpaid(suites: list[Any], policy: dict[str, Any]) -> None:
    """Raises `UnpaidLook` if the policy counts looks at the items of one of the suites."""
    counted = {rule["held_out"] for rule in policy.get("suites", ())}
    if named := [suite.name for suite in suites if suite.held_out in counted]:
        found = f"The domain's policy counts every look at the items of {', '.join(named)}."
        raise UnpaidLook(f"{found} Record the evaluation, or look at other items: --n")
