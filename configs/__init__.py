"""Variants, recipes and data paths as YAML, and the frozen objects they are read into."""
