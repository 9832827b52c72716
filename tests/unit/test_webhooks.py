"""Webhooks without a network: signatures, addresses, order, retries, dead letters, who delivers."""

import asyncio
import base64
import hashlib
import hmac
import random
import re
import threading
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from registry.errors import Conflict, Forbidden, StoreUnavailable
from registry.http import create_app
from registry.model.access import Secret
from registry.model.catalog import Webhook
from registry.model.domains import CreateDomain
from registry.model.machine import decide
from registry.model.webhooks import MAX_WEBHOOKS, PER_DOMAIN, AddWebhook, RemoveWebhook
from registry.notify.addresses import check_target, choose_address, is_public
from registry.notify.cloudevents import END, Position, PublicEvent
from registry.notify.delivery import IN_FLIGHT, Deliverer, _wants
from registry.notify.feed import Feed, Page
from registry.notify.lease import STALE_SECONDS, Lease, newest
from registry.notify.progress import (
    FIRST_RETRY,
    LAST_RETRY,
    MAX_DEAD,
    Delivery,
    Progress,
)
from registry.notify.sending import Sender
from registry.notify.signature import headers, secret_of
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from tests.unit.test_gates import NOW, OPERATOR, start

DAY = 86_400.0
DOCS = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "events-and-webhooks.md"
HOOK = Webhook(
    id="h1", url="https://a.example/x", domain="*", types=(), after=0, added="", added_by=""
)


def test_signatures_are_those_of_the_specification() -> None:
    """The example of the Standard Webhooks libraries."""
    made = headers(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert made["webhook-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert made["webhook-timestamp"] == "1614265330"


def test_each_webhook_has_a_secret_of_its_own_and_old_secrets_still_sign() -> None:
    new, old = "n" * 32, "o" * 32
    other = msgspec.structs.replace(HOOK, id="h2")
    secrets = [secret_of(HOOK, "r", new), secret_of(HOOK, "r", old), secret_of(other, "r", new),
               secret_of(HOOK, "s", new)]  # fmt: skip
    assert len(set(secrets)) == 4
    for secret in secrets:
        assert secret.startswith("whsec_")
        assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"))) <= 64
    signed = headers(secrets[:2], "1-0", 1, b"{}")["webhook-signature"].split(" ")
    for secret, signature in zip(secrets[:2], signed, strict=True):
        key = base64.b64decode(secret.removeprefix("whsec_"))
        digest = hmac.new(key, b"1-0.1.{}", hashlib.sha256).digest()
        assert signature == "v1," + base64.b64encode(digest).decode()


def test_the_receiver_in_the_documents_verifies_signatures() -> None:
    (code,) = re.findall(r"```python\n(import base64.*?)```", DOCS.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102
    secret = secret_of(HOOK, "r", "n" * 32)
    sent = headers([secret_of(HOOK, "r", "o" * 32), secret], "1-0", 1, b"{}")
    assert names["is_genuine"](secret, sent, b"{}")
    assert not names["is_genuine"](secret, sent, b"{ }")
    assert not names["is_genuine"](secret, {**sent, "webhook-timestamp": "2"}, b"{}")
    assert not names["is_genuine"](secret_of(HOOK, "s", "n" * 32), sent, b"{}")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.1", "0.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "::", "::1",
        "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:169.254.169.254", "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2001:db8::1", "192.0.0.192", "::7f00:1",
        "::a9fe:a9fe", "::ffff:0:7f00:1", "64:ff9b:1::7f00:1", "fec0::2", "fe00::1", "4000::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(Forbidden, match="not a public address"):
        choose_address("h", ["93.184.216.34", address], private=False)
    assert choose_address("h", [address], private=True) == address


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1", "64:ff9b::5db8:d822"])
def test_public_addresses_are_taken(address: str) -> None:
    assert choose_address("h", [address], private=False) == address


def test_only_hosts_that_the_operator_allows_are_reached_privately_or_without_tls() -> None:
    allowed = {"ci.internal", "127.0.0.1:9000"}
    assert check_target("http://ci.internal:8080/x", allowed)
    assert check_target("http://CI.internal/x", allowed)
    assert check_target("http://127.0.0.1:9000/x", allowed)
    assert not check_target("https://a.example/x", allowed)
    for url in ("http://127.0.0.1:9001/x", "http://a.example/x", "http://ci.internal.evil/x"):
        with pytest.raises(Forbidden, match="LORARY_WEBHOOK_HOSTS"):
            check_target(url, allowed)


async def attempt(url: str, addresses: list[str]) -> str | None:
    sender = Sender(frozenset(), look_up=lambda *_: addresses, seconds=5)
    try:
        return await sender.send(url, {}, b"")
    finally:
        await sender.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1"])
def test_a_name_is_resolved_and_checked_at_each_delivery(address: str) -> None:
    error = asyncio.run(attempt("https://was-public.example/x", [address]))
    assert error is not None
    assert "not a public address" in error


def test_a_name_server_that_hangs_holds_up_no_other_webhook() -> None:
    async def deliver() -> str | None:
        answers = threading.Event()

        def look_up(host: str, _: int) -> list[str]:
            if host == "hangs":
                answers.wait()
            return ["10.0.0.1"]

        sender = Sender(frozenset(), look_up=look_up, seconds=2)
        try:
            hanging = [sender.send("https://hangs/", {}, b"") for _ in range(IN_FLIGHT)]
            waiting = asyncio.gather(*hanging)
            await asyncio.sleep(0)
            found = await sender.send("https://other/", {}, b"")
            assert set(await waiting) == {"no answer within 2 s"}
            return found
        finally:
            answers.set()
            await sender.close()

    assert "not a public address" in (asyncio.run(deliver()) or "")


def event(sequence: int, lane: str, entry: int = 0) -> PublicEvent:
    position = Position(sequence, entry)
    return PublicEvent(position, "ai.lorary.version.published", "medical", lane, lane, b"{}")


def queued(*events: PublicEvent, now: float = 0.0) -> Progress:
    last = Position(max(e.position.sequence for e in events), END)
    return Progress(cursor="0").queue(Page(events, last, more=False), now)


def fail(progress: Progress, delivery: Delivery, now: float, **changes: Any) -> Progress:
    given = {"give_up": DAY, "chance": 1.0, "sequence": 9, **changes}
    return progress.failed(delivery, "500", now, **given)


def test_a_failing_delivery_blocks_only_its_lane() -> None:
    progress = queued(event(1, "a"), event(2, "b"), event(3, "a"), event(4, "b"))
    first, other = progress.next((), 0)
    assert (first.id, other.id) == ("1-0", "2-0")
    progress = fail(progress, first, 0).delivered(other)
    assert [one.id for one in progress.next((), 1)] == ["4-0"]
    assert [one.id for one in progress.next(("b",), 1)] == []
    assert [one.id for one in progress.next((), 2)] == ["1-0", "4-0"]
    again = next(iter(progress.next((), 2)))
    assert [one.id for one in progress.delivered(again).next((), 2)] == ["3-0", "4-0"]


def test_retries_back_off_up_to_an_hour_with_jitter() -> None:
    progress, now, waits = queued(event(1, "a")), 0.0, list[float]()
    for _ in range(20):
        (delivery,) = progress.waiting
        progress = fail(progress, delivery, now)
        waits.append(progress.waiting[0].due - now)
        now = progress.waiting[0].due
    assert waits[:3] == [FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY]
    assert waits[-1] == LAST_RETRY
    least = fail(queued(event(1, "a")), queued(event(1, "a")).waiting[0], 0, chance=0.0)
    assert least.waiting[0].due == FIRST_RETRY / 2


def test_a_clock_that_went_back_puts_no_event_off() -> None:
    wrong, right = 50 * 365 * DAY, 1000.0
    progress = Progress(cursor="1", waiting=(Delivery("1-0", "a", "t", "s", right),))
    failed = progress.failed(
        progress.waiting[0], "no answer", wrong, give_up=100 * 365 * DAY, chance=1.0, sequence=1
    )
    assert [one.id for one in failed.next((), right)] == ["1-0"]


def test_webhooks_begin_anew_where_a_backup_ends_before_what_was_delivered(
    local_store: LocalStore,
) -> None:
    """A later event would otherwise count as delivered, since an earlier one at its place was."""
    operator = Registry.create(local_store, name="r", key_name="operator")
    registry = Registry(local_store)
    registry.execute(AddWebhook("h", "https://hooks.example/x"), operator.id)
    after = registry.catalog.webhooks["h"].after
    settings = RegistrySettings(store=local_store.url, webhook_secret=SecretStr("s" * 32))
    deliverer = Deliverer(Feed(registry), settings)
    lost = Delivery("9-0", "medical/coder", "t", "s", 0.0)
    deliverer._hooks = {"h": Progress(cursor="9", waiting=(lost,))}
    deliverer._queue(registry.catalog, 1.0)
    assert deliverer._hooks["h"] == Progress(cursor=str(registry.catalog.sequence))
    assert after < registry.catalog.sequence
    registry.close()


def test_an_event_becomes_a_dead_letter_and_its_lane_goes_on() -> None:
    progress = queued(event(1, "a"), event(2, "a"))
    progress = fail(progress, progress.waiting[0], DAY - 1)
    assert not progress.dead
    progress = fail(progress, progress.waiting[0], DAY, sequence=7)
    assert [(one.id, one.attempts, one.error, one.dead) for one in progress.dead] == [
        ("1-0", 2, "500", 7)
    ]
    assert [one.id for one in progress.next((), DAY)] == ["2-0"]


def test_dead_letters_are_sent_again_before_later_events_of_their_lane() -> None:
    progress = queued(event(1, "a"), event(2, "a"), event(3, "a"))
    for _ in range(2):
        progress = fail(progress, progress.waiting[0], DAY, sequence=7)
    again = progress.resend(7, 2 * DAY)
    assert [one.id for one in again.waiting] == ["1-0", "2-0", "3-0"]
    assert [(one.attempts, one.queued) for one in again.waiting[:2]] == [(0, 2 * DAY)] * 2
    assert again.dead == ()
    assert again.resend(7, 3 * DAY) == again
    assert progress.resend(6, 2 * DAY).dead == progress.dead


def test_dead_letters_are_bounded_and_counted() -> None:
    many = tuple(event(number + 1, "a") for number in range(MAX_DEAD + 5))
    progress = queued(*many)
    for delivery in progress.waiting:
        progress = fail(progress, delivery, DAY)
    assert len(progress.dead) == MAX_DEAD
    assert progress.dropped == 5
    assert progress.dead[0].id == "6-0"


def test_the_lag_counts_from_the_oldest_event_that_waits() -> None:
    assert Progress(cursor="5").lag(8) == 3
    assert queued(event(2, "a"), event(6, "b")).lag(8) == 7
    assert Progress(cursor="8").lag(8) == 0


@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_lost_and_lanes_keep_their_order_whatever_fails(seed: int) -> None:
    """Attempts fail, overlap, and the process dies and goes on from what it saved last."""
    chance = random.Random(seed)
    log = [event(n + 1, chance.choice("abc")) for n in range(20)]
    saved = progress = Progress(cursor="0")
    arrived: dict[str, list[int]] = defaultdict(list)
    now, flying = 0.0, list[Delivery]()
    for step in range(1000):
        now += 600
        reached = Position.parse(progress.cursor).sequence
        if reached < len(log) and chance.random() < 0.5:
            page = Page((log[reached],), Position(reached + 1, END), more=False)
            progress = progress.queue(page, now)
        flying += progress.next({delivery.lane for delivery in flying}, now)
        if flying:
            delivery = flying.pop(chance.randrange(len(flying)))
            if step > 500 or chance.random() < 0.5:
                arrived[delivery.lane].append(delivery.position.sequence)
                progress = progress.delivered(delivery)
            else:
                progress = fail(progress, delivery, now, give_up=100 * DAY)
        if chance.random() < 0.3:
            saved = progress
        if step < 500 and chance.random() < 0.1:
            progress, flying = saved, []
    for lane in "abc":
        expected = [e.position.sequence for e in log if e.lane == lane]
        assert list(dict.fromkeys(arrived[lane])) == expected


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_one_process_delivers_and_another_takes_over_when_it_dies(
    local_store: LocalStore, clock: Clock
) -> None:
    first, second = Lease(local_store, clock), Lease(local_store, clock)
    assert first.acquire() == {}
    assert second.acquire() is None
    for number in range(10):
        clock.now += STALE_SECONDS / 3
        assert first.save({"h1": Progress(cursor=str(number))})
        assert second.acquire() is None
    clock.now += STALE_SECONDS - 1
    assert second.acquire() is None
    assert not first.is_held
    clock.now += 1
    assert second.acquire() == {"h1": Progress(cursor="9")}
    assert second.is_held


def test_a_process_that_was_replaced_changes_nothing_and_notices(
    local_store: LocalStore, clock: Clock
) -> None:
    first, second = Lease(local_store, clock), Lease(local_store, clock)
    first.acquire()
    assert second.acquire() is None
    clock.now += STALE_SECONDS
    assert second.acquire() == {}
    assert second.save({"h1": Progress(cursor="5")})
    assert not first.save({"h1": Progress(cursor="1")})
    found = newest(local_store)
    assert found is not None
    assert found.hooks == {"h1": Progress(cursor="5")}
    assert first.acquire() is None


def test_a_process_that_ends_in_order_is_followed_at_once(
    local_store: LocalStore, clock: Clock
) -> None:
    first, second = Lease(local_store, clock), Lease(local_store, clock)
    first.acquire()
    first.save({"h1": Progress(cursor="5")}, released=True)
    assert not first.is_held
    assert second.acquire() == {"h1": Progress(cursor="5")}
    for _ in range(10):
        assert second.save({}, released=True)
        assert second.acquire() == {}
    assert len(list(local_store.list("webhooks/"))) <= 4


class Away(LocalStore):
    """A store to which nothing can be written for a while."""

    away = False

    def put(self, *arguments: Any, **named: Any) -> None:
        if self.away:
            raise StoreUnavailable("away")
        super().put(*arguments, **named)


def test_a_process_that_cannot_write_stops_before_another_takes_over(
    local_store: LocalStore, clock: Clock
) -> None:
    store = Away(local_store.root)
    lease = Lease(store, clock)
    lease.acquire()
    store.away = True
    clock.now += STALE_SECONDS / 2
    with pytest.raises(StoreUnavailable):
        lease.save({})
    assert not lease.is_held


def served(store: LocalStore, operator: Secret, **settings: Any) -> TestClient:
    app = create_app(RegistrySettings(store=store.url, **settings))
    return TestClient(app, headers={"Authorization": f"Bearer {operator.text}"})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalStore, Secret]:
    """A store with a registry, and its operator's key."""
    store = LocalStore(tmp_path_factory.mktemp("webhooks") / "store")
    return store, Registry.create(store, name="hospital", key_name="operator")


@pytest.fixture(scope="module")
def client(shared: tuple[LocalStore, Secret]) -> TestClient:
    return served(*shared, webhook_secret="s" * 32, webhook_hosts="ci.internal")


def test_a_secret_is_shown_once_and_stands_nowhere_in_the_store(
    client: TestClient, shared: tuple[LocalStore, Secret]
) -> None:
    local_store, _ = shared
    added = client.post("/api/v1/webhooks", json={"url": "https://a.example/x"})
    assert added.status_code == 201, added.text
    assert added.headers["cache-control"] == "no-store"
    secret = added.json()["secret"]
    assert all("secret" not in listed for listed in client.get("/api/v1/webhooks").json())
    for info in local_store.list(""):
        data = local_store.get(info.key)
        assert secret.removeprefix("whsec_").encode() not in data
        assert b"s" * 32 not in data


def test_webhooks_need_a_secret_of_the_operator(shared: tuple[LocalStore, Secret]) -> None:
    refused = served(*shared).post("/api/v1/webhooks", json={"url": "https://a.b/"})
    assert refused.status_code == 400
    assert "LORARY_WEBHOOK_SECRET" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://a.example/x", 201),
        ("http://ci.internal/x", 201),
        ("http://a.example/x", 403),
        ("http://169.254.169.254/latest/meta-data", 403),
        ("ftp://a.example/x", 400),
        ("https://user:word@a.example/x", 400),
        ("https://a.example/x#y", 400),
        ("https:///x", 400),
        ("https://a.example:99999/", 400),
        ("https://a.example/\n", 400),
        ("nothing", 400),
    ],
)
def test_addresses_are_checked_when_a_webhook_is_added(
    client: TestClient, url: str, status: int
) -> None:
    assert client.post("/api/v1/webhooks", json={"url": url}).status_code == status


def test_one_domain_leaves_webhooks_to_the_others(local_store: LocalStore) -> None:
    operator = Registry.create(local_store, name="hospital", key_name="operator")
    registry = Registry(local_store)
    for domain in ("medical", "legal"):
        registry.execute(CreateDomain(domain), operator.id)
    add = partial(AddWebhook, url="https://a.example/x")
    for number in range(PER_DOMAIN):
        registry.execute(add(f"m{number}", domain="medical"), operator.id)
    with pytest.raises(Conflict, match="10 webhooks for 'medical', the most"):
        registry.execute(add("m", domain="medical"), operator.id)
    assert registry.execute(add("l", domain="legal"), operator.id)
    registry.execute(RemoveWebhook("m0"), operator.id)
    assert registry.execute(add("m", domain="medical"), operator.id)
    registry.close()


def test_a_webhook_is_removed_by_its_route(client: TestClient) -> None:
    added = client.post("/api/v1/webhooks", json={"url": "https://a.example/x"}).json()
    path = f"/api/v1/webhooks/{added['id']}"
    assert client.get(f"{path}/dead-letters").json()["dead_letters"] == []
    assert client.post(f"{path}/dead-letters/resend", json={"through": 1}).status_code == 200
    assert client.request("DELETE", path).json() == {"id": added["id"], "removed": True}
    assert client.request("DELETE", path).status_code == 404
    assert added["id"] not in [hook["id"] for hook in client.get("/api/v1/webhooks").json()]


def test_a_webhook_gets_what_it_asked_for() -> None:
    published = event(1, "medical/coder")
    for types, domain, expected in (
        ((), "*", True),
        (("ai.lorary.version.published",), "medical", True),
        (("ai.lorary.version.approved",), "*", False),
        ((), "legal", False),
    ):
        hook = msgspec.structs.replace(HOOK, types=types, domain=domain)
        assert _wants(hook, published) == expected


def test_a_receiver_sends_no_delivery_elsewhere() -> None:
    """It could otherwise reach a private network through the registry."""

    async def deliver() -> tuple[str | None, int]:
        requests = 0

        async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal requests
            requests += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 307 No\r\nLocation: /private\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(redirect, "127.0.0.1", 0)
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        sender = Sender(frozenset((host,)), seconds=5)
        try:
            return await sender.send(f"http://{host}/", {}, b""), requests
        finally:
            await sender.close()
            server.close()

    assert asyncio.run(deliver()) == ("the receiver answered 307", 1)


def test_webhooks_are_bounded() -> None:
    full = {
        str(number): msgspec.structs.replace(HOOK, domain=f"d{number}")
        for number in range(MAX_WEBHOOKS)
    }
    catalog = msgspec.structs.replace(start(), webhooks=full)
    with pytest.raises(Conflict, match=f"There are {MAX_WEBHOOKS} webhooks"):
        decide(catalog, AddWebhook("one", "https://a.example/x"), OPERATOR, NOW)
