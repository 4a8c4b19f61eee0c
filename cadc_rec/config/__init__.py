"""What an experiment is: sections of settings, methods, and how a TOML file becomes them."""
