"""How numbers, names and curves look: pure text and SVG, shared by the pages, the report and the commands."""
