"""Instructions in, tables out: readers, datasets, similarity, decontamination."""
