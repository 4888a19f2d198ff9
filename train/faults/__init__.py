"""Steps that went wrong, kept and done again."""
