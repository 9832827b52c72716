"""How answers turned out, and what follows: opinions taken, candidates watched."""
