"""Raw tables in, the prepared dataset out: dense ids, attributes, the split."""
