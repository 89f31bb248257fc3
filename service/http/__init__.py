"""The HTTP interface; only here and in `kserve` are there statuses."""
