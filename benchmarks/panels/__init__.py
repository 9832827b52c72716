"""Base, fine-tuned and preference-trained models on the same held-out questions."""
