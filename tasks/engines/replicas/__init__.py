"""The student on GPU workers: `host` and `watch` at the driver, `stay` and `address` at the worker, `key` at both."""
