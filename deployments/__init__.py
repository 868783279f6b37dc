"""What Prefect is told about this project: `prefect.yaml`. Data only."""
