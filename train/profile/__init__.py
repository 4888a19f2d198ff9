"""What a variant costs: counted and measured."""
