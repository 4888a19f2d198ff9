"""Raw data set trees become audited, compressed shards of frame pairs."""
