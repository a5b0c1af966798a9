"""wsl_core: weakly supervised localisation, one paper a file."""

__version__ = "0.1.0"
