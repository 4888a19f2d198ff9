"""Many processes as one: meeting, agreeing, sharding."""
