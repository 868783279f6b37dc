"""The training lab: arms of a curriculum in one process, for experiments (docs/lab.md). No part of the product."""
