"""A small world of moving objects, written as raw trees."""
