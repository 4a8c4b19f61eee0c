"""The command line: one file a command, their options, and the doctor."""
