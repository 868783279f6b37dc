"""What happens inside a fine-tune: data, batches, pre-flight, progress, checkpoints, export."""
