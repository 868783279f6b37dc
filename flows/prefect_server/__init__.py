"""The Prefect server that runs report to (`server`), and the process that keeps one (`caretaker`)."""
