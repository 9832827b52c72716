"""Files and batches: requests that are answered later, with what other requests leave over."""
