"""What is in tables that nobody has described yet, and a configuration to start from."""
