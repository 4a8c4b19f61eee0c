"""The only room that knows TorchRec's sharding: processes, plans, shards."""
