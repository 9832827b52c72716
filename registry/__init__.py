"""The registry: a log of commits in an object store, the catalog folded from it, its service."""
