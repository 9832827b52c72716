"""Where adapters' bytes are, bucket, disk or engine, and how they get from one into the next."""
