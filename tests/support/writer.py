"""A process that commits domain after domain and prints each once it is acknowledged."""

import itertools
import os
import sys

from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import open_store


def main(url: str, operator: str, turn: str) -> None:
    """Write until killed."""
    registry = Registry(open_store(url, s3_endpoint=os.environ.get("LORARY_S3_ENDPOINT")))
    for number in itertools.count():
        domain = f"t{turn}-{number}"
        registry.execute(CreateDomain(domain, Policy()), operator)
        print(domain, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
