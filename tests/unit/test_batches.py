"""Batches answer each line once, whoever works on them, and end when they must."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from registry.errors import AlreadyExists, OutcomeUnknown
from registry.store import LocalStore
from serving.batches.batches import MAX_OPEN, Batches
from serving.batches.claims import STALE_SECONDS, Claims
from serving.batches.files import DAY, Files
from serving.batches.lines import MAX_LINES, Input, problems
from serving.batches.records import Batch, Entry, State
from serving.batches.slices import Answer
from serving.batches.threads import Threads
from serving.batches.worker import Worker
from serving.errors import (
    BatchEnded,
    BatchNotFound,
    FileNotStored,
    LimitReached,
    QuotaExceeded,
)
from tests.support.faults import FaultyStore
from tests.support.tiers import run, settled

CHAT = "/v1/chat/completions"
ME, YOU = "me", "you"
OK = Answer(200, b'{"id": "chatcmpl-1", "choices": []}')


class Site:
    """A deployment's files and batches, and a worker whose lines a function answers."""

    def __init__(self, folder: Path) -> None:
        self.store = FaultyStore(LocalStore(folder))
        self.files = Files(self.store, "serving/x/", most_bytes=1 << 20, most_files=50)
        self.batches = Batches(self.store, "serving/x/")
        self.asked: list[str] = []
        self.answer: Callable[[dict[str, Any]], Answer | Awaitable[Answer]] = lambda _body: OK

    def worker(self, **options: Any) -> Worker:
        given: dict[str, Any] = {"at_once": 2, "line_bytes": 10_000, "keep_seconds": DAY}
        return Worker(self.batches, self.files, self.ask, **given | options)

    async def ask(self, batch: Batch, body: bytes) -> Answer:
        read = json.loads(body)
        self.asked.append(read["model"])
        answer = self.answer(read)
        return answer if isinstance(answer, Answer) else await answer

    def upload(self, *lines: Any, owner: str = ME) -> str:
        data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode()
                          for line in lines)  # fmt: skip
        return self.files.add(
            owner, [data], filename="in.jsonl", purpose="batch", keep_seconds=DAY
        ).id

    def batch(self, *models: str, owner: str = ME) -> str:
        lines = [line(f"{number}", model) for number, model in enumerate(models)]
        return self.create(self.upload(*lines, owner=owner), owner).batch.id

    def create(self, file_id: str, owner: str = ME) -> State:
        return self.batches.create(
            owner, "key", endpoint=CHAT, input_file_id=file_id, keep_seconds=DAY
        )

    def shown(self, batch_id: str, owner: str = ME) -> dict[str, Any]:
        return self.batches.get(owner, batch_id).shown()

    def rows(self, file_id: str | None, owner: str = ME) -> list[dict[str, Any]]:
        assert file_id is not None
        data = b"".join(self.files.content(owner, file_id))
        return [json.loads(row) for row in data.splitlines()]


def line(custom_id: str, model: str = "medical", **fields: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [], **fields}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "store")


def test_each_line_is_answered_and_errors_stand_in_a_file_of_their_own(site: Site) -> None:
    refused = b'{"error": {"code": "adapter_not_found"}}'
    site.answer = lambda body: OK if body["model"] == "medical" else Answer(404, refused)
    batch_id = site.batch("medical", "nothing", "medical")

    assert site.shown(batch_id)["status"] == "validating"
    assert asyncio.run(site.worker().step())
    shown = site.shown(batch_id)
    assert (shown["status"], shown["errors"]) == ("completed", None)
    assert shown["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    good, bad = site.rows(shown["output_file_id"]), site.rows(shown["error_file_id"])
    assert [row["custom_id"] for row in good] == ["0", "2"]
    assert good[0]["response"] == {
        "status_code": 200, "request_id": "chatcmpl-1", "body": json.loads(OK.body)
    }  # fmt: skip
    assert (bad[0]["custom_id"], bad[0]["response"]["status_code"]) == ("1", 404)
    assert bad[0]["response"]["body"]["error"]["code"] == "adapter_not_found"
    assert not asyncio.run(site.worker().step())


@pytest.mark.parametrize("body", [b"Service Unavailable", b"", b"null", b'{"error": "busy"}'])
def test_only_a_refusal_of_the_gateways_keeps_a_batch_waiting(body: bytes) -> None:
    assert not Answer(503, body).must_wait
    assert Answer(503, b'{"error": {"code": "shutting_down"}}').must_wait


@pytest.mark.parametrize("body", [b"Internal Server Error", b"", b"null", b"\xff"])
def test_an_answer_that_is_no_json_object_spoils_no_batch(site: Site, body: bytes) -> None:
    site.answer = lambda asked: OK if asked["model"] == "medical" else Answer(500, body)
    batch_id = site.batch("broken", "medical")
    asyncio.run(site.worker().step())
    shown = site.shown(batch_id)
    assert shown["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    (row,) = site.rows(shown["error_file_id"])
    assert row["response"]["body"] == body.decode(errors="replace")


def test_an_ended_batch_leaves_its_record_and_files_alone(site: Site) -> None:
    site.batch("medical")
    asyncio.run(site.worker().step())
    kinds = sorted(info.key.split("/")[2] for info in site.store.list("serving/"))
    assert kinds == ["batches"] * 2 + ["files"] * 4


def test_what_was_written_is_not_asked_again_after_a_worker_died(site: Site) -> None:
    hanging = asyncio.Event()
    batch_id = site.batch(*["medical"] * 3, *["legal"] * 3)

    async def answer_some(body: dict[str, Any]) -> Answer:
        if body["model"] == "legal":
            await hanging.wait()
        return OK

    async def work() -> None:
        site.answer = answer_some
        then = [0.0]
        dead = asyncio.create_task(site.worker(clock=lambda: then[0]).step())
        await settled(lambda: len(site.asked) == 5)
        then[0] = 11.0
        await settled(lambda: site.batches.get(ME, batch_id).entries > 0)
        site.answer = lambda _body: OK
        now = [0.0]
        heir = site.worker(clock=lambda: now[0])
        assert not await heir.step()  # somebody seems to work on it
        now[0] = STALE_SECONDS
        site.asked.clear()
        assert await heir.step()
        dead.cancel()
        await asyncio.gather(dead, return_exceptions=True)

    run(work)
    shown = site.shown(batch_id)
    assert shown["request_counts"] == {"total": 6, "completed": 6, "failed": 0}
    assert site.asked == ["legal"] * 3
    assert len({row["custom_id"] for row in site.rows(shown["output_file_id"])}) == 6


def test_a_worker_that_was_replaced_without_noticing_adds_nothing(site: Site) -> None:
    """It wakes up with its answers after its heir has written the same lines."""
    asleep = asyncio.Event()
    batch_id = site.batch("medical", "medical")

    async def sleep_first(_body: dict[str, Any]) -> Answer:
        await asleep.wait()
        return Answer(200, b'{"id": "late"}')

    async def work() -> None:
        site.answer = sleep_first
        sleeper = asyncio.create_task(site.worker(clock=lambda: 0.0).step())
        await settled(lambda: len(site.asked) == 2)
        now = [0.0]
        heir = site.worker(clock=lambda: now[0])
        assert not await heir.step()
        now[0] = STALE_SECONDS
        site.answer = lambda _body: OK
        assert await heir.step()
        asleep.set()
        await sleeper

    run(work)
    shown = site.shown(batch_id)
    rows = site.rows(shown["output_file_id"])
    assert [row["response"]["request_id"] for row in rows] == ["chatcmpl-1"] * 2
    assert sorted(row["custom_id"] for row in rows) == ["0", "1"]


def test_a_replaced_worker_loses_to_its_heir_while_that_one_still_works(site: Site) -> None:
    asleep, slow = asyncio.Event(), asyncio.Event()
    batch_id = site.batch("medical", "medical", "slow")

    async def sleep(_body: dict[str, Any]) -> Answer:
        await asleep.wait()
        return Answer(200, b'{"id": "late"}')

    async def heirs(body: dict[str, Any]) -> Answer:
        if body["model"] == "slow":
            await slow.wait()
        return OK

    async def work() -> None:
        site.answer = sleep
        then, now = [0.0], [0.0]
        sleeper = asyncio.create_task(site.worker(clock=lambda: then[0]).step())
        await settled(lambda: len(site.asked) == 2)
        heir = site.worker(clock=lambda: now[0])
        assert not await heir.step()
        now[0] = STALE_SECONDS
        site.answer = heirs
        working = asyncio.create_task(heir.step())
        await settled(lambda: len(site.asked) == 5)
        now[0] += 11
        await settled(lambda: site.batches.get(ME, batch_id).entries == 1)
        asleep.set()
        await settled(lambda: len(site.asked) == 6)  # it goes on to the last line
        then[0] = 11.0
        await asyncio.wait_for(sleeper, 5)
        slow.set()
        await working

    run(work)
    rows = site.rows(site.shown(batch_id)["output_file_id"])
    assert sorted(row["custom_id"] for row in rows) == ["0", "1", "2"]
    assert {row["response"]["request_id"] for row in rows} == {"chatcmpl-1"}


@pytest.mark.parametrize("fault", ["lost before", "lost after"])
def test_a_lost_reply_to_a_write_of_answers_loses_and_doubles_none(site: Site, fault: Any) -> None:
    batch_id = site.batch("medical", "medical")
    put, faults = site.store.put, [fault]

    def losing(key: str, data: bytes, mode: Any) -> None:
        if "/results/" in key and faults:
            site.store.plan([faults.pop()])
        put(key, data, mode)

    site.store.put = losing  # type: ignore[method-assign]
    asyncio.run(site.worker().step())
    assert site.shown(batch_id)["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert len(site.rows(site.shown(batch_id)["output_file_id"])) == 2


def test_an_entry_that_another_worker_wrote_while_the_reply_was_lost_is_not_ones_own(
    site: Site,
) -> None:
    state = site.batches.get(ME, site.batch("medical"))
    put = site.store.put

    def raced(key: str, data: bytes, mode: Any) -> None:
        put(key, b"another worker's", mode)
        raise OutcomeUnknown("no answer")

    site.store.put = raced  # type: ignore[method-assign]
    entry = Entry(worker="me", completed=1, failed=0, done=b"\x01", at=0)
    assert not site.batches.append(state, entry, [(True, b"{}")])
    assert state.entries == 0


def test_one_replica_takes_a_batch_and_others_wait_until_it_is_given_back(site: Site) -> None:
    now = [0.0]
    one, other = Claims(site.store), Claims(site.store, clock=lambda: now[0])
    claim = one.take("w/o/batch/")
    assert claim is not None
    assert other.take("w/o/batch/") is None
    now[0] = STALE_SECONDS - 1
    assert other.take("w/o/batch/") is None
    assert claim.beat()
    now[0] = STALE_SECONDS + 1
    assert other.take("w/o/batch/") is None
    claim.release()
    heir = other.take("w/o/batch/")
    assert heir is not None
    assert not claim.beat()
    assert one.take("w/o/batch/") is None


def test_of_a_race_for_a_claim_one_wins(site: Site) -> None:
    class Racing(FaultyStore):
        def put(self, key: str, data: bytes, mode: Any) -> None:
            if mode == "create":
                super().put(key, b"a rival", mode)
            super().put(key, data, mode)

    with pytest.raises(AlreadyExists):
        Racing(site.store).put("k", b"", "create")
    assert Claims(Racing(site.store)).take("w/o/batch/") is None


def test_owners_take_turns_and_lines_of_one_model_run_together(site: Site) -> None:
    first = site.batch("a", "b", "a", "b")
    site.batch("c", owner=ME)
    mine_too = site.batch("d", owner=YOU)
    worker = site.worker(at_once=1)
    for _ in range(3):
        assert asyncio.run(worker.step())
    assert site.asked == ["a", "a", "b", "b", "d", "c"]
    assert site.shown(first)["status"] == "completed"
    assert site.shown(mine_too, YOU)["status"] == "completed"


def test_a_key_at_its_limit_is_waited_for_and_others_go_on(site: Site) -> None:
    mine = site.batch("medical", "medical")
    yours = site.batch("legal", owner=YOU)
    limited = [True]

    def answer(body: dict[str, Any]) -> Answer:
        if body["model"] == "medical" and limited:
            return Answer(429, b'{"error": {"code": "rate_limit_exceeded"}}', retry_after=20)
        return OK

    site.answer = answer
    now = [0.0]
    worker = site.worker(clock=lambda: now[0], at_once=1)
    assert asyncio.run(worker.step())
    assert asyncio.run(worker.step())
    assert not asyncio.run(worker.step())
    assert site.asked == ["medical", "legal"]
    assert site.shown(yours, YOU)["status"] == "completed"
    now[0] = 21.0
    limited.clear()
    assert asyncio.run(worker.step())
    assert site.shown(mine)["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


def test_a_server_that_answers_nobody_fails_no_line(site: Site) -> None:
    batch_id = site.batch("medical")
    away = Answer(503, b'{"error": {"code": "registry_unavailable"}}', retry_after=1)
    site.answer = lambda _body: away
    assert asyncio.run(site.worker().step())
    assert site.shown(batch_id)["status"] == "in_progress"
    assert len(site.asked) == 1


def test_a_cancelled_batch_ends_with_what_was_answered(site: Site) -> None:
    batch_id = site.batch("quick", "slow", "slow")

    async def hang(body: dict[str, Any]) -> Answer:
        if body["model"] == "slow":
            await asyncio.Event().wait()
        return OK

    async def work() -> None:
        site.answer = hang
        working = asyncio.create_task(site.worker().step())
        await settled(lambda: len(site.asked) == 3)
        assert site.batches.cancel(ME, batch_id).status == "cancelling"
        await working

    run(work)
    shown = site.shown(batch_id)
    assert shown["status"] == "cancelled"
    assert shown["request_counts"] == {"total": 3, "completed": 1, "failed": 0}
    assert [row["custom_id"] for row in site.rows(shown["output_file_id"])] == ["0"]
    assert shown["cancelled_at"] >= shown["cancelling_at"] >= shown["in_progress_at"]
    with pytest.raises(BatchEnded):
        site.batches.cancel(ME, batch_id)


def test_what_is_not_answered_in_time_is_reported_line_by_line(site: Site) -> None:
    site.batches = Batches(site.store, "serving/x/", clock=lambda: time.time() - DAY - 1)
    batch_id = site.batch("medical", "medical")
    asyncio.run(site.worker().step())
    shown = site.shown(batch_id)
    assert (shown["status"], site.asked) == ("expired", [])
    rows = site.rows(shown["error_file_id"])
    assert [row["error"]["code"] for row in rows] == ["batch_expired"] * 2
    assert shown["output_file_id"] is None


def test_a_batch_of_a_revoked_key_ends(site: Site) -> None:
    batch_id = site.batch("medical")
    asyncio.run(site.worker(refused=lambda _batch: "That key was revoked.").step())
    shown = site.shown(batch_id)
    assert (shown["status"], site.asked) == ("failed", [])
    assert "revoked" in site.rows(shown["error_file_id"])[0]["error"]["message"]


def test_lines_that_hold_what_others_wait_for_are_ended_and_repeated(site: Site) -> None:
    batch_id = site.batch("medical")
    now, crowd = [0.0], [False]

    async def hang(_body: dict[str, Any]) -> Answer:
        crowd[0] = True
        await asyncio.Event().wait()
        return OK

    async def work() -> None:
        site.answer = hang
        worker = site.worker(clock=lambda: now[0], crowded=lambda: crowd[0])
        working = asyncio.create_task(worker.step())
        await settled(lambda: crowd[0])
        await asyncio.sleep(1.1)
        now[0] = 6.0
        await working
        assert not await worker.step()
        crowd[0] = False
        site.answer = lambda _body: OK
        assert await worker.step()

    run(work)
    assert site.shown(batch_id)["request_counts"] == {"total": 1, "completed": 1, "failed": 0}


def test_a_server_that_ends_begins_no_more_lines_and_gives_the_batch_back(site: Site) -> None:
    batch_id, closing = site.batch(*["medical"] * 3), [False]

    async def answer(_body: dict[str, Any]) -> Answer:
        closing[0] = True
        await asyncio.sleep(1.2)
        return OK

    site.answer = answer
    ending = site.worker(closing=lambda: closing[0], at_once=1)
    assert asyncio.run(ending.step())
    assert not asyncio.run(ending.step())
    assert len(site.asked) == 1
    site.answer = lambda _body: OK
    assert asyncio.run(site.worker().step())
    assert len(site.asked) == 3
    assert site.shown(batch_id)["status"] == "completed"


def test_a_streamed_line_is_refused_and_the_others_are_answered(site: Site) -> None:
    lines = [line("0", stream=True), line("1")]
    shown = site.shown(batch_id := site.create(site.upload(*lines)).batch.id)
    asyncio.run(site.worker().step())
    shown = site.shown(batch_id)
    assert shown["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert "stream" in site.rows(shown["error_file_id"])[0]["response"]["body"]["error"]["message"]


@pytest.mark.parametrize(
    ("lines", "code", "number"),
    [
        ([], "empty_file", None),
        ([b"not json"], "invalid_json_line", 1),
        ([line("0"), b"", b"[]"], "invalid_json_line", 3),
        ([b'{"custom_id": "\xff", "method": "POST", "url": "/", "body": {}}'],
         "invalid_json_line", 1),
        ([line("")], "invalid_custom_id", 1),
        ([line("0"), line("0")], "duplicate_custom_id", 2),
        ([{**line("0"), "method": "GET"}], "invalid_method", 1),
        ([{**line("0"), "url": "/v1/completions"}], "mismatched_url", 1),
        ([{**line("0"), "body": []}], "invalid_body", 1),
        ([line("0", text="x" * 10_000)], "line_too_long", 1),
        ([b'{"custom_id": "0", "method": "POST", "url": "/", "body": ' + b"[" * 9_000],
         "invalid_json_line", 1),
    ],
)  # fmt: skip
def test_an_input_that_cannot_be_run_is_reported_by_its_lines(
    site: Site, lines: list[Any], code: str, number: int | None
) -> None:
    batch_id = site.create(site.upload(*lines)).batch.id
    asyncio.run(site.worker().step())
    shown = site.shown(batch_id)
    assert (shown["status"], site.asked) == ("failed", [])
    (problem,) = shown["errors"]["data"]
    assert (problem["code"], problem["line"]) == (code, number)
    assert shown["output_file_id"] is None


def test_an_input_whose_file_is_gone_fails_its_batch(site: Site) -> None:
    file_id = site.upload(line("0"))
    batch_id = site.create(file_id).batch.id
    site.files.delete(ME, file_id)
    asyncio.run(site.worker().step())
    assert site.shown(batch_id)["errors"]["data"][0]["code"] == "file_not_found"


def test_what_was_answered_is_kept_where_the_input_file_is_gone_meanwhile(site: Site) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        return OK if body["model"] == "medical" else Answer(429, b"{}", 60.0)

    site.answer = answer
    file_id = site.upload(line("0"), line("1", "limited"))
    batch_id = site.create(file_id).batch.id
    asyncio.run(site.worker(at_once=1).step())
    site.files.delete(ME, file_id)
    asyncio.run(site.worker().step())
    shown = site.shown(batch_id)
    assert (shown["status"], shown["errors"]["data"][0]["code"]) == ("failed", "file_not_found")
    assert shown["request_counts"] == {"total": 2, "completed": 1, "failed": 0}
    assert [row["custom_id"] for row in site.rows(shown["output_file_id"])] == ["0"]


@pytest.mark.parametrize("line_of_two_bytes", [b"1\n", b"\n\n", b" \n"])
def test_of_millions_of_lines_few_are_looked_at(line_of_two_bytes: bytes) -> None:
    """Each one costs the server's process time and memory."""
    data = line_of_two_bytes * (4 << 20)
    began = time.process_time()
    given = Input(data)
    assert time.process_time() - began < 2
    assert len(given) <= MAX_LINES + 1


def test_lines_are_numbered_as_they_stand_in_the_file() -> None:
    random = Random(5)
    for _ in range(300):
        written = [random.choice([b"", b" ", b"\t\r", b"x", b" y\r", b"z z"]) for _ in range(9)]
        given = Input(random.choice([b"", b"\xef\xbb\xbf"]) + b"\n".join(written))
        expected = [number for number, one in enumerate(written, 1) if one.strip()]
        assert [given.number(index) for index in range(len(given))] == expected


def test_a_bounded_number_of_problems_is_reported() -> None:
    found = problems(Input(b"x\n" * 500), CHAT, 100)
    assert len(found) == 100
    assert len(problems(Input(b"x\n" * 50_001), CHAT, 100)) == 1


def test_nobody_sees_what_another_owner_has(site: Site) -> None:
    file_id, batch_id = site.upload(line("0")), site.batch("medical")
    with pytest.raises(FileNotStored):
        site.files.get(YOU, file_id)
    with pytest.raises(FileNotStored):
        list(site.files.content(YOU, file_id))
    with pytest.raises(FileNotStored):
        site.files.delete(YOU, file_id)
    with pytest.raises(BatchNotFound):
        site.batches.get(YOU, batch_id)
    with pytest.raises(BatchNotFound):
        site.batches.cancel(YOU, batch_id)
    assert site.files.page(YOU, after="", limit=10) == ([], False)
    assert site.batches.page(YOU, after="", limit=10) == ([], False)
    for other in (f"../me/{file_id}", "file-", "", f"{file_id}.json", "file-" + "0" * 24):
        with pytest.raises(FileNotStored):
            site.files.get(YOU, other)


def test_files_and_batches_come_in_pages(site: Site) -> None:
    ids = [site.batch("medical") for _ in range(3)]
    page, more = site.batches.page(ME, after="", limit=2)
    assert ([state.batch.id for state in page], more) == ([ids[2], ids[1]], True)
    page, more = site.batches.page(ME, after=ids[1], limit=2)
    assert ([state.batch.id for state in page], more) == ([ids[0]], False)
    files, more = site.files.page(ME, after="", limit=2, newest_first=False)
    assert (len(files), more) == (2, True)
    rest, more = site.files.page(ME, after=files[1].id, limit=2, newest_first=False)
    assert (len(rest), more, files[0].created_at <= rest[0].created_at) == (1, False, True)


def test_an_owner_keeps_a_bounded_number_of_bytes_files_and_open_batches(site: Site) -> None:
    site.files.check_quota(ME, 1 << 20)
    with pytest.raises(QuotaExceeded):
        site.files.check_quota(ME, (1 << 20) + 1)
    file_id = site.upload(line("0"))
    for _ in range(MAX_OPEN):
        site.create(file_id)
    with pytest.raises(QuotaExceeded):
        site.create(file_id)
    site.batches.create(YOU, "key", endpoint=CHAT, input_file_id=file_id, keep_seconds=1)
    few = Files(site.store, "serving/x/", most_bytes=1 << 20, most_files=1)
    with pytest.raises(QuotaExceeded):
        few.check_quota(ME)
    few.check_quota(YOU)


def test_files_are_gone_when_their_time_is_over(site: Site) -> None:
    old = Files(
        site.store, "serving/x/", most_bytes=1, most_files=1, clock=lambda: time.time() - DAY - 1
    )
    expired = old.add(ME, [b"x"], filename="x", purpose="batch", keep_seconds=DAY).id
    kept = site.upload(b"y")
    uploading = "serving/x/files/me/file-" + "0" * 24
    site.store.put(f"{uploading}.data", b"z", "create")  # its record is to come
    with pytest.raises(FileNotStored):
        site.files.get(ME, expired)
    assert [file.id for file in site.files.page(ME, after="", limit=9)[0]] == [kept]
    assert site.files.sweep() == 1
    assert {info.key.rpartition("/")[2] for info in site.store.list("serving/x/files/")} == {
        f"{kept}.json", f"{kept}.data", uploading.rpartition("/")[2] + ".data"
    }  # fmt: skip
    later = Files(
        site.store, "serving/x/", most_bytes=1, most_files=1, clock=lambda: time.time() + 2 * DAY
    )
    assert later.sweep() == 2
    assert list(site.store.list("serving/x/files/")) == []


def test_ended_batches_are_forgotten_and_open_ones_are_not(site: Site) -> None:
    ended = site.batch("medical")
    asyncio.run(site.worker().step())
    waiting = site.batch("medical")
    begun, left = (f"serving/x/work/me/{one}/results/000000" for one in (waiting, ended))
    site.store.put(begun, b"{}", "create")
    site.store.put(left, b"{}", "create")  # of a worker that was replaced without noticing
    later = Batches(site.store, "serving/x/", clock=lambda: time.time() + 3 * DAY)
    assert later.sweep(DAY) == 1
    with pytest.raises(BatchNotFound):
        site.batches.get(ME, ended)
    assert [info.key for info in site.store.list("serving/x/work/")] == [begun]
    site.store.delete(begun)
    assert site.shown(waiting)["status"] == "validating"


def test_a_mark_without_a_batch_is_removed_in_time(site: Site) -> None:
    site.store.put("serving/x/open/me.batch_" + "0" * 24, b"", "create")
    now = [0.0]
    worker = site.worker(clock=lambda: now[0])
    assert not asyncio.run(worker.step())
    assert len(site.batches.open()) == 1
    now[0] = 301.0
    assert not asyncio.run(worker.step())
    assert site.batches.open() == []


def test_calls_that_wait_for_the_store_are_bounded() -> None:
    async def work() -> None:
        threads, hold = Threads(1, 1), threading.Event()
        calls = [asyncio.create_task(threads.run(hold.wait, 10)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(LimitReached):
            await threads.run(int, "1")
        hold.set()
        await asyncio.gather(*calls)
        assert await threads.run(int, "1") == 1

    run(work)
