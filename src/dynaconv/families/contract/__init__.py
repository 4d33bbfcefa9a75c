"""Base of every dynamic layer: its dimensions, its context, its branch, and its deployed form."""
