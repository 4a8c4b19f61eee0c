"""Days of a real log: no update, updates, rebuilds and recent popularity, on the same clicks."""
