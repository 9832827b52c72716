"""The reference pages in docs/reference/, made from the code: `make reference`.

Each module makes one page. tests/unit/test_reference.py fails if a page is stale or if something
has no description.
"""
