"""Raw trees of the data sets, as their authors lay them out."""
