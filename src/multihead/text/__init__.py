"""Properties of texts: their bytes, scripts, words and lengths, and the vocabulary that turns them into ids."""
