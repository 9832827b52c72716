"""Public events of the registry: what other systems may learn, and how it is delivered to them."""
