"""Weights from the Hugging Face Hub, which keeps them in its own cache (the extra ``hub``)."""

from __future__ import annotations

from pathlib import Path

from reslightning.errors import UserError

FILES = ("model.safetensors", "pytorch_model.bin")  # the first that a repository has


def download(source: str) -> Path:
    """Return the file that ``hf:USER/NAME`` or ``hf:USER/NAME/FILE`` means: from the hub's cache, else downloaded.

    Raises:
        UserError: huggingface_hub is not installed, the hub has no such file, or it cannot be reached.
    """
    user, _, rest = source.removeprefix("hf:").partition("/")
    name, _, file = rest.partition("/")
    if not user or not name:
        raise UserError(f"{source!r} names nothing on the hub\nallowed: hf:USER/NAME, hf:USER/NAME/FILE")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise UserError(
            f"{source} needs huggingface_hub, which is not installed\nInstall the extra: pip install "
            "'reslightning[hub]'. Or download the file by hand and give its path."
        ) from error
    files, missing = [file] if file else FILES, EntryNotFoundError("")
    for cached in (True, False):  # what is there needs no network
        for one in files:
            try:
                return Path(hf_hub_download(f"{user}/{name}", one, local_files_only=cached))
            except EntryNotFoundError as error:
                missing = error
                if not cached and isinstance(error, LocalEntryNotFoundError):
                    break  # it cannot be reached, for another file no more than for this one
            except Exception as error:  # of the hub's and of its transport's own types
                raise UserError(f"cannot download {source}: {error}") from error
    if not isinstance(missing, LocalEntryNotFoundError):
        raise UserError(
            f"{source}: {user}/{name} has no {' and no '.join(files)}\nName the file: hf:{user}/{name}/FILE"
        ) from missing
    raise UserError(
        f"cannot download {source}: {missing}\nOn a machine with internet run `hf download {user}/{name} {files[0]}`: "
        "from the hub's cache (HF_HOME) it is read without a network. Or give the file that it names as the weights."
    ) from missing
