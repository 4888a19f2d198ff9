"""What every reader of a tree uses: clips, texts, listings, official lists."""
