"""The evidence for gates: suites, metrics and statistics."""
