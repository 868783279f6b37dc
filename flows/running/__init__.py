"""What every flow of ours has about it while it runs in Prefect."""
