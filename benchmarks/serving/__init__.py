"""How one replica serves, measured beside its limits and its peers; see `__main__`."""
