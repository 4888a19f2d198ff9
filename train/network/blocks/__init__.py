"""The modules of the network; they know no files."""
