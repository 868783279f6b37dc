"""The loop: which stage follows which. Order only, no arithmetic."""
