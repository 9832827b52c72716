"""The soak: everything that can happen to serving, at once, and every answer judged."""
