"""One request at the gate: what it may ask, what it may take, how it ends, what is added to it."""
