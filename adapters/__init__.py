"""What an adapter is and how one is made: names, PEFT format, admission, domain packs, recipes."""
