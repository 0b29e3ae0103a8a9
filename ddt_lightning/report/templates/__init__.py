"""The jinja2 templates of the page: one for each section, with macros that they share and one style."""
