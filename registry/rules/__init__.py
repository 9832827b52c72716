"""The rules that `registry.decide` applies, by what they are about. Pure."""
