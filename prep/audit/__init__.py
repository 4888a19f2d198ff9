"""Raw trees read whole and what is wrong with them."""
