"""Boxes to masks: the pixels of an object, by a network that takes a crop and a box."""
