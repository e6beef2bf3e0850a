"""The Transformer, its heads, and how outputs are searched for or drawn."""
