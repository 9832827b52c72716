"""The rules that `registry.model.decide` applies, by what they are about. Pure."""
