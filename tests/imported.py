"""What a process has imported from which those of tests are forked."""

from reslightning.cli.loading import loading

with loading(aloud=False):
    import reslightning.cli.lightning_cli  # noqa: F401
