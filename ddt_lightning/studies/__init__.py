"""Reports and figures from finished runs."""
