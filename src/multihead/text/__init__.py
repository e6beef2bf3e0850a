"""What a text is: its bytes, its script and words, its length, and the numbers that stand for it."""
