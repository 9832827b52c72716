"""What the benchmarks compute by themselves: simulations, a judge of answers, a peer's method."""
