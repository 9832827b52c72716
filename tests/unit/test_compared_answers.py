"""Answers that are compared: what is read of them, when they are the same, and what is reported."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from adapters.errors import LoraryError
from registry.errors import StoreUnavailable
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.base import Command
from registry.model.comparisons import Comparison
from registry.model.shadow import EndShadow, ReportShadow, StartShadow
from serving.outcomes.comparing import compare
from serving.outcomes.reading import MAX_BYTES, Answer, Recording
from serving.outcomes.reporting import Reports
from serving.outcomes.shadows import LONGEST_SECONDS, Totals, is_chosen
from serving.telemetry.verdicts import Times, Verdicts
from tests.support.replicas import Site, make_site

NAME = ("medical/coder", "production", 1)


def recorded(
    *pieces: bytes, status: int = 200, kind: bytes = b"application/json", whole: bool = True
) -> Recording:
    recording = Recording()
    headers = [(b"content-type", kind)]
    messages: list[Message] = [
        {"type": "http.response.start", "status": status, "headers": headers},
        *({"type": "http.response.body", "body": p, "more_body": True} for p in pieces),
    ]
    if whole:
        messages.append({"type": "http.response.body", "body": b""})
    for message in messages:
        recording.see(message)
    return recording


def stream(*events: Any) -> Recording:
    texts = (event if isinstance(event, str) else json.dumps(event) for event in events)
    data = "".join(f"data: {text}\n\n" for text in texts).encode()
    cut = len(data) // 2  # vLLM's pieces need not be whole events
    return recorded(data[:cut], data[cut:], kind=b"text/event-stream; charset=utf-8")


USAGE = {"prompt_tokens": 7, "completion_tokens": 3}
MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": "J45 asthma"}]}
THOUGHT = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}


@pytest.mark.parametrize(
    "answer",
    [
        recorded(
            json.dumps(
                {"choices": [{"message": {"content": "J45 asthma"}}], "usage": USAGE}
            ).encode()
        ),
        recorded(json.dumps({"choices": [{"text": "J45 asthma"}], "usage": USAGE}).encode()),
        recorded(
            json.dumps(
                {
                    "output": [THOUGHT, MESSAGE],
                    "usage": {"input_tokens": 7, "output_tokens": 3},
                }
            ).encode()
        ),
        stream(
            {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"delta": {"content": "J45 "}}], "usage": {"completion_tokens": 1}},
            {"choices": [{"delta": {"content": "asthma"}}]},
            {"choices": [{"delta": {"content": None}}]},
            {"choices": [], "usage": USAGE},
            "[DONE]",
        ),
        stream(
            {"choices": [{"text": "J45 "}]},
            {"choices": [{"text": "asthma"}], "usage": USAGE},
            "[DONE]",
        ),
        stream(
            {"type": "response.output_text.delta", "delta": "J45"},
            {
                "type": "response.completed",
                "response": {
                    "output": [MESSAGE],
                    "usage": {"input_tokens": 7, "output_tokens": 3},
                },
            },
        ),
    ],
)
def test_the_text_of_every_route_is_read_whole_and_streamed(answer: Recording) -> None:
    assert answer.complete
    assert answer.read() == Answer("J45 asthma", tokens=3, prompt_tokens=7)


@pytest.mark.parametrize(
    "answer",
    [
        recorded(b'{"choices": [{"text": "x"}]}', status=500),
        recorded(b'{"choices": [{"text": "x"'),
        recorded(b'{"object": "list", "data": []}'),
        recorded(b"\xff"),
        stream({"choices": [{"text": "x"}]}, {"error": {"message": "broken"}}),
        recorded(b'{"choices": [{"text": "' + b"x" * MAX_BYTES + b'"}]}'),
    ],
)
def test_what_is_no_answer_or_too_long_is_not_read(answer: Recording) -> None:
    assert answer.read() is None
    assert answer.size <= MAX_BYTES


def test_an_answer_whose_end_was_not_seen_is_not_complete() -> None:
    assert not recorded(b'{"choices": []}', whole=False).complete
    assert not Recording().complete


def answer(text: str, tokens: int = 2) -> Answer:
    return Answer(text, tokens, 5)


@pytest.mark.parametrize(
    ("other", "same_text", "same_first"),
    [
        ("J45 asthma", 1, 1),
        ("  J45\n asthma ", 1, 1),
        ("J45 Asthma", 0, 1),
        ("J46 asthma", 0, 0),
        ("", 0, 0),
    ],
)
def test_texts_are_compared_whole_and_by_their_first_word(
    other: str, same_text: int, same_first: int
) -> None:
    seen = compare(answer("J45 asthma"), answer(other, 9), greedy=True)
    assert (seen.compared, seen.texts, seen.tokens, seen.candidate_tokens) == (1, 1, 2, 9)
    assert (seen.same_text, seen.same_first) == (same_text, same_first)
    assert seen.consistent


def test_letters_that_are_encoded_in_two_ways_are_the_same() -> None:
    assert compare(answer("caf\u00e9"), answer("cafe\u0301"), greedy=True).same_text == 1


def test_sampled_texts_are_not_compared() -> None:
    seen = compare(answer("a"), answer("a"), greedy=False)
    assert (seen.compared, seen.texts, seen.same_text) == (1, 0, 0)


@pytest.mark.parametrize(
    ("ours", "theirs", "correct", "gained", "lost"),
    [
        ("J45", "j45.", 1, 0, 0),
        ("J45", "J46", 1, 0, 1),
        ("J46", " j45 ", 0, 1, 0),
        ("J46", "J46", 0, 0, 0),
    ],
)
def test_answers_are_scored_against_what_the_caller_expects(
    ours: str, theirs: str, correct: int, gained: int, lost: int
) -> None:
    seen = compare(answer(ours), answer(theirs), greedy=False, expected="J45")
    assert (seen.scored, seen.correct, seen.gained, seen.lost) == (1, correct, gained, lost)
    assert seen.candidate_correct == correct + gained - lost
    assert compare(answer(ours), answer(theirs), greedy=True).scored == 0


def test_times_are_compared_only_where_as_much_of_the_prompt_was_cached() -> None:
    ours, theirs = Times(0.1, 0.02, cached=16), Times(0.3, 0.01, cached=16)
    seen = compare(answer("a"), answer("b"), greedy=False, times=(ours, theirs))
    assert (seen.timed, seen.first_slower, seen.token_slower) == (1, 1, 0)
    assert (seen.first_seconds, seen.candidate_first_seconds) == (0.1, 0.3)
    assert (seen.token_seconds, seen.candidate_token_seconds) == (0.02, 0.01)
    other = Times(0.3, 0.01, cached=0)
    assert compare(answer("a"), answer("b"), greedy=False, times=(ours, other)).timed == 0


def test_the_engines_times_are_kept_for_requests_that_are_compared_alone() -> None:
    verdicts = Verdicts()
    times = Times(0.1, 0.02, 0)
    verdicts.time("one")
    verdicts.note("chatcmpl-one", corrupted=False, times=times)
    verdicts.note("chatcmpl-two", corrupted=False, times=times)
    assert verdicts.take_times("one") == times
    assert verdicts.take_times("one") is None
    assert verdicts.take_times("two") is None
    verdicts.time("three")
    verdicts.note("cmpl-three-0", corrupted=False, times=times)  # as vLLM numbers prompts
    assert verdicts.take_times("three") == times


def test_about_that_share_of_answers_is_chosen_by_their_ids_alone() -> None:
    ids = [f"id-{number}" for number in range(4000)]
    for share in (0.01, 0.1, 0.5):
        chosen = [one for one in ids if is_chosen(NAME, share, one)]
        # Four standard deviations of a binomial.
        assert abs(len(chosen) - 4000 * share) <= 4 * (4000 * share * (1 - share)) ** 0.5
        assert chosen == [one for one in ids if is_chosen(NAME, share, one)]
    assert all(is_chosen(NAME, 1.0, one) for one in ids)
    first = [is_chosen(NAME, 0.5, one) for one in ids]
    second = [is_chosen(("medical/coder", "production", 2), 0.5, one) for one in ids]
    agreeing = sum(a == b for a, b in zip(first, second, strict=True))
    assert 1800 < agreeing < 2200, "another shadow chooses anew"


class Service(Reports):
    """The registry itself in place of its service; it may be away."""

    def __init__(self, site: Site) -> None:
        super().__init__("http://127.0.0.1:1", Secret.generate().text)
        self.site = site
        self.away = False
        self.sent: list[ReportShadow] = []

    async def send(self, command: Command) -> dict[str, Any]:
        if self.away:
            raise StoreUnavailable("The registry is away. Try later.")
        assert isinstance(command, ReportShadow)
        self.sent.append(command)
        list(command.decide(self.site.registry.catalog, "r", "2030-01-01T00:00:00Z"))
        return {"recorded": True}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path)
    made.publish("medical", "coder", b"medical two")
    for command in (
        MoveAlias("medical", "coder", "production", 1),
        StartShadow("medical", "coder", "production", 2, 0.5),
    ):
        made.registry.execute(command, made.operator.id)
    yield made
    made.registry.close()


class Clock:
    now = 0.0


def totals(site: Site) -> tuple[Totals, Service, Clock]:
    service, clock = Service(site), Clock()
    made = Totals(lambda: site.registry.catalog, service, clock=lambda: clock.now)
    return made, service, clock


def test_totals_are_reported_when_they_have_grown_or_it_is_long_ago(site: Site) -> None:
    made, service, clock = totals(site)

    def reported(count: int) -> list[int]:
        for _ in range(count):
            made.add(NAME, Comparison(compared=1))
        asyncio.run(made.report())
        return [command.seen.compared for command in service.sent]

    assert reported(4) == [4]
    assert reported(0) == [4], "nothing is new"
    assert reported(0) == [4]
    assert reported(1) == [4, 5]
    assert reported(1) == [4, 5], "a sixth is no quarter more than five"
    clock.now += LONGEST_SECONDS
    assert reported(0) == [4, 5, 6]
    made.add(NAME, Comparison(compared=1))
    asyncio.run(made.report(all_of_them=True))
    assert service.sent[-1].seen.compared == 7
    assert len({command.reporter for command in service.sent}) == 1
    assert totals(site)[0] is not made


def test_totals_of_many_requests_make_few_reports(site: Site) -> None:
    made, service, _ = totals(site)

    async def many() -> None:
        for _ in range(3000):
            made.add(NAME, Comparison(compared=1))
            await made.report()

    asyncio.run(many())
    assert len(service.sent) < 40


def test_a_report_that_is_not_taken_is_tried_again(site: Site) -> None:
    made, service, _ = totals(site)
    made.add(NAME, Comparison(compared=1))
    service.away = True
    asyncio.run(made.report())
    service.away = False
    asyncio.run(made.report())
    assert [command.seen.compared for command in service.sent] == [1]


def test_the_last_totals_of_a_shadow_that_has_ended_are_reported_once(site: Site) -> None:
    made, service, _ = totals(site)
    for _ in range(100):
        made.add(NAME, Comparison(compared=1))
    asyncio.run(made.report())
    made.add(NAME, Comparison(compared=1))
    site.registry.execute(EndShadow("medical", "coder", "production"), site.operator.id)
    asyncio.run(made.report())
    asyncio.run(made.report())
    assert [command.seen.compared for command in service.sent] == [100, 101]


def test_totals_of_a_shadow_that_nobody_knows_are_forgotten(site: Site) -> None:
    made, service, _ = totals(site)
    made.add(("medical/coder", "production", 7), Comparison(compared=1))
    made.add(("medical/none", "production", 1), Comparison(compared=1))
    asyncio.run(made.report(all_of_them=True))
    assert service.sent == []


def test_without_a_key_nothing_is_reported_and_nothing_fails(site: Site) -> None:
    made = Totals(lambda: site.registry.catalog, Reports("http://127.0.0.1:1", ""))
    made.add(NAME, Comparison(compared=1))
    try:
        asyncio.run(made.report(all_of_them=True))
    except LoraryError as error:
        pytest.fail(f"{error.code} was raised")
