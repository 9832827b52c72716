"""References are read and written in one place, and nothing else gets through it."""

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import InvalidName
from adapters.names import AdapterRef, proposal

names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
hub_shaped = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?", fullmatch=True)
hub_names = hub_shaped.filter(
    lambda name: "--" not in name and ".." not in name and not name.endswith(".git")
)
adapters = names | hub_names
aliases = names.filter(lambda name: not name.isdigit())
refs = st.one_of(
    st.builds(AdapterRef, names),
    st.builds(AdapterRef, names, adapters),
    st.builds(AdapterRef, names, adapters, version=st.integers(1, 10**9)),
    st.builds(AdapterRef, names, adapters, alias=aliases),
)


@given(refs)
def test_what_is_written_is_read_back(ref: AdapterRef) -> None:
    assert AdapterRef.parse(str(ref)) == ref


@given(adapters)
def test_adapters_are_named_as_on_the_hub(name: str) -> None:
    if "--" not in name and not name.endswith("-"):
        validate_repo_id(f"medical/{name}")


@given(st.from_regex(r"[A-Za-z0-9._-]{1,100}", fullmatch=True))
def test_what_the_hub_takes_names_an_adapter(name: str) -> None:
    try:
        validate_repo_id(f"medical/{name}")
    except HFValidationError:
        return
    assert AdapterRef.parse(f"medical/{name}").adapter == name


@given(st.text() | st.from_regex(r"[a-z0-9@/. -]{1,20}"))
def test_any_text_is_a_reference_written_canonically_or_refused(text: str) -> None:
    try:
        ref = AdapterRef.parse(text)
    except InvalidName:
        return
    assert str(ref) == text


@pytest.mark.parametrize(
    ("text", "proposed"),
    [
        ("bugs/neu Name", "'neu-name'"),
        ("bugs/Llama-3.1_8B_lora.git", "'llama-3-1-8b-lora-git'"),
        ("bugs/Llama--3", "'llama-3'"),
        ("Bugs/x", "'bugs'"),
        ("my.org/x", "'my-org'"),
        ("a/-b-", "'b'"),
        ("a/Müller GmbH", "'muller-gmbh'"),
        ("a/b@v1.0", "'v1-0'"),
        ("a/b@Prod", "'prod'"),
        ("a/" + "B" * 97, repr("b" * 63)),
        ("a/" + "._" * 100_000, ""),
        ("a/医療", ""),
        ("a/b@01", ""),
    ],
)
def test_a_refused_name_comes_with_one_that_is_accepted(text: str, proposed: str) -> None:
    with pytest.raises(InvalidName) as refused:
        AdapterRef.parse(text)
    said = refused.value.message
    assert said.endswith(f", such as {proposed}.") == bool(proposed)
    assert ("such as" in said) == bool(proposed)
    assert len(said) < 400


def test_a_name_that_ends_with_git_is_refused_for_that_reason() -> None:
    with pytest.raises(InvalidName, match=r"not ending with '\.git'"):
        AdapterRef.parse("medical/Coder.git")


@given(st.text())
def test_a_proposal_is_well_formed_or_empty(text: str) -> None:
    proposed = proposal(text)
    assert proposed == "" or AdapterRef.parse(proposed).domain == proposed


@pytest.mark.parametrize(
    "text",
    ["", "Medical", "a/b/c", "a/", "/b", "a@1", "a/b@", "a/b@0", "a/b@01", "a/b@-1", "a/b@1@2",
     "a/../b", "a/b ", "a/b\n", "-a/b", "a/b@x/y", "a/" + "b" * 97,
     "a/b..c", "a/.b", "a/b.", "a/B-", "a/B--c", "a/b.git", "a/b@99999999999", "ä/b",
     "a/b@²"],
)  # fmt: skip
def test_malformed_references_are_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        AdapterRef.parse(text)
