"""Files of rows as people have them: bytes, encodings, dialects, columns and roles. Nothing here imports numpy."""
