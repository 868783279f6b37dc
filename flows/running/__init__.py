"""What every flow of ours has about it while it runs in Prefect: interrupts, suspension, remedies, live progress."""
