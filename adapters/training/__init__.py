"""Recipes that make adapters."""
