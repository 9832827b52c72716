"""How answers turned out, and what follows: ratings taken, candidates watched."""
