"""What a registry knows and how it changes. Pure: bytes, clocks and sockets are passed in."""
