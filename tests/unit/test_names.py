"""References are read and written in one place, and nothing else gets through it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import InvalidName
from adapters.names import AdapterRef

names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
aliases = names.filter(lambda name: not name.isdigit())
refs = st.one_of(
    st.builds(AdapterRef, names),
    st.builds(AdapterRef, names, names),
    st.builds(AdapterRef, names, names, version=st.integers(1, 10**9)),
    st.builds(AdapterRef, names, names, alias=aliases),
)


@given(refs)
def test_what_is_written_is_read_back(ref: AdapterRef) -> None:
    assert AdapterRef.parse(str(ref)) == ref


@given(st.text() | st.from_regex(r"[a-z0-9@/. -]{1,20}"))
def test_any_text_is_a_reference_written_canonically_or_refused(text: str) -> None:
    try:
        ref = AdapterRef.parse(text)
    except InvalidName:
        return
    assert str(ref) == text


@pytest.mark.parametrize(
    "text",
    ["", "Medical", "a/b/c", "a/", "/b", "a@1", "a/b@", "a/b@0", "a/b@01", "a/b@-1", "a/b@1@2",
     "a/../b", "a/b ", "a/b\n", "-a/b", "a/b@x/y", "a/" + "b" * 64, "a/b@99999999999", "ä/b",
     "a/b@²"],
)  # fmt: skip
def test_malformed_references_are_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        AdapterRef.parse(text)
