"""What operators see of a replica: metrics, a line for each request, what an answer cost."""
