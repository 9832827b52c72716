"""Grammars that answers must keep to, tried in a process of their own before vLLM compiles them."""
