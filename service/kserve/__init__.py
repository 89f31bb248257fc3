"""The open inference protocol (KServe V2, REST), beside our own routes."""
