"""One module a command, each with ``main(argv) -> exit status``."""
