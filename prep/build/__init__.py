"""Raw trees to shards: plan, shard, receipt, manifest."""
