"""Images: which files they are (finding), their pixels (decoding), what a network sees (preprocessing), labels."""
