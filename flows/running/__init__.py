"""What every flow of ours has about it while it runs in Prefect. This file imports no Prefect: commands read it too."""

__all__ = ["TAG"]

TAG = "tapir"
"""Of every deployment, and so of every flow run that the server looks after for us."""
