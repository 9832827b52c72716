"""What runs inside vLLM's API process: gate, resolver, adapter cache; and how it is launched."""
