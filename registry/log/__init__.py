"""The hash-chained log of commits, the only state of a registry, and what is folded from it."""
