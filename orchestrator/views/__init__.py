"""What the terminal shows: JSON shapes, tables, the live view; changes nothing."""
