"""Which two frames make pair i, and the crops that are cut from them."""
