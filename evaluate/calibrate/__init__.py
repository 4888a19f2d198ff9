"""Int8 graphs: what scales them, and how far their boxes are from float32's."""
