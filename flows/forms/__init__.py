"""What a deployment starts, one module a form; `form.py` is what they share."""
