"""Every training method on one task at equal budget."""
