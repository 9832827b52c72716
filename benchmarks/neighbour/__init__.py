"""What one caller's requests do to another caller of the same server."""
