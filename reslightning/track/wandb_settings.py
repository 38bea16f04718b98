"""W&B's settings: a run's options, the variables of W&B's own that they yield to, and what W&B would refuse of them."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from reslightning.cluster.allocation import job_id
from reslightning.errors import UserError

Mode = Literal["online", "offline", "disabled"]
# The variable of W&B's own that says an option which nobody chose.
VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "name": "WANDB_NAME",
    "job_type": "WANDB_JOB_TYPE",
    "notes": "WANDB_NOTES",
    "tags": "WANDB_TAGS",
}
DEFAULTS = {"project": "reslightning", "job_type": "train"}
MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
# What W&B is told instead of reading it.
TOLD = {*VARIABLES.values(), "WANDB_MODE", "WANDB_DISABLED", "WANDB_DIR", "WANDB_RUN_ID", "WANDB_RESUME"}


@dataclass(frozen=True)
class Wandb:
    """Weights & Biases. What is not given is what W&B's own variable says (WANDB_PROJECT, WANDB_TAGS, ...).

    A Slurm job's number and partition become tags, a job array's name the group.

    Attributes:
        mode: auto ($WANDB_MODE, else online where a key is found, else offline), online, offline or disabled.
        project: the project runs belong to; none given means reslightning.
        entity: the user or team; none given means the key's own.
        group: runs shown together; none given means the job array's name, if there is one.
        name: the run's name; none given means the run directory's.
        job_type: what the run is for; none given means train.
        tags: words to find the run by.
        notes: a longer description.
        log_checkpoint: upload the last checkpoint when the run is finished.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    log_checkpoint: bool = False

    def chosen(self) -> Wandb:
        """Return these options with W&B's own variables, or else the defaults, where nothing is given."""
        options = dict(vars(self))
        for name, variable in VARIABLES.items():
            said: Any = os.environ.get(variable)
            if name == "tags":
                said = [tag.strip() for tag in (said or "").split(",") if tag.strip()]
            options[name] = options[name] or said or DEFAULTS.get(name, options[name])
        return Wandb(**options)

    def in_job(self, group: str | None) -> Wandb:
        """Return these options with what the Slurm job says, if this is one, or else the group that a run had."""
        number = job_id()
        name = os.environ.get("SLURM_JOB_NAME") if "SLURM_ARRAY_JOB_ID" in os.environ else None
        words = [f"job-{number}" if number else None, os.environ.get("SLURM_JOB_PARTITION")]
        tags = list(dict.fromkeys([*self.tags, *(word for word in words if word and number)]))
        return replace(self, tags=tags, group=self.group or group or name)

    def asked_mode(self) -> Literal["auto", "online", "offline", "disabled"]:
        """Return the mode, where nobody chose one that of W&B's own variables.

        Raises:
            UserError: $WANDB_MODE is none of W&B's.
        """
        if self.mode != "auto":
            return self.mode
        if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on", "t", "y"):
            return "disabled"
        asked = os.environ.get("WANDB_MODE")
        if not asked:
            return "auto" if asked is None else "offline"
        if asked not in MODES:
            raise UserError(
                f"WANDB_MODE={asked} is not a mode\nallowed: {', '.join(MODES)}; or unset it, or give --wandb.mode"
            )
        return MODES[asked]

    def resolved_mode(self) -> Mode:
        """Return the mode without "auto": online where a key is found, else offline.

        Online without a key is offline too, with a warning: W&B would ask for one. So is what W&B would refuse.
        """
        asked = self.asked_mode()
        if asked in ("offline", "disabled"):
            return asked
        if refused(self):
            return "offline"
        if _key_found():
            return "online"
        if asked == "online":
            warnings.warn("no W&B key is found, so the run is recorded offline; see `wandb login`", stacklevel=2)
        return "offline"

    def acceptable(self) -> Wandb:
        """Return these options without what W&B would refuse."""
        bad, options = refused(self), dict(vars(self))
        for name, variable in VARIABLES.items():
            if name == "tags":
                options[name] = [tag for tag in self.tags if not _refusal(variable, tag)]
            elif f"wandb.{name}" in bad:
                options[name] = DEFAULTS.get(name)
        return Wandb(**options)


def refused(options: Wandb | None = None) -> dict[str, str]:
    """Return why W&B would refuse a setting, by the name of the variable or of the option (wandb.project)."""
    given = {name: value for name, value in os.environ.items() if name.startswith("WANDB_") and name not in TOLD}
    found = {name: why for name, value in given.items() if (why := _refusal(name, value))}
    if options is not None and options.mode == "auto" and os.environ.get("WANDB_MODE") == "":
        found["WANDB_MODE"] = f"it is empty; allowed: {', '.join(MODES)}"
    for name, variable in VARIABLES.items():
        values = getattr(options, name, None) or ()
        for value in values if name == "tags" else [values]:
            if value and (why := _refusal(variable, value)):
                found[f"wandb.{name}"] = why
    return found


def _refusal(variable: str, value: str) -> str | None:
    """Return why W&B would refuse a variable's value, None if it would not."""
    if variable == "WANDB_API_KEY":  # which is not repeated
        spoilt = any(letter.isspace() or not letter.isprintable() for letter in value)
        return "the key contains white space, a line's end perhaps; set it anew" if spoilt else None
    import wandb

    try:
        wandb.Settings().update_from_env_vars({variable: value})
    except Exception as error:  # pydantic's, or W&B's own
        lines = str(error).splitlines()  # pydantic's third one says it
        return re.sub(r" \[type=.*", "", lines[2 if len(lines) > 2 else 0]).strip()
    return None


@contextmanager
def told() -> Iterator[None]:
    """Hide the variables that W&B is told instead of reading them, or would refuse."""
    hidden = {name: os.environ.pop(name) for name in [*TOLD, *refused()] if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def place(directory: Path) -> Path:
    """Return the folder for W&B's files, $WANDB_DIR if it is set and can be written, else the run directory."""
    if not (given := os.environ.get("WANDB_DIR")):
        return directory.resolve()
    folder = Path(given).expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        warnings.warn(f"WANDB_DIR={given} cannot be written: W&B's files go to {directory}", stacklevel=2)
    return folder if writable else directory.resolve()


def wandb_url() -> str:
    """Return the address of the server that W&B's settings name.

    Raises:
        UserError: W&B refuses a setting.
    """
    import wandb

    if bad := refused():
        raise UserError("\n".join(f"W&B refuses {name}: {why}" for name, why in bad.items()))
    if url := os.environ.get("WANDB_BASE_URL"):
        return url
    settings = wandb.Settings()
    settings.update_from_system_settings()
    return str(settings.base_url)


def _key_found() -> bool:
    """Whether W&B has credentials, found without asking its server or the user."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    from requests.utils import get_netrc_auth

    try:
        return get_netrc_auth(wandb_url()) is not None
    except Exception as error:  # a setting of the user's that W&B does not take
        warnings.warn(f"W&B's settings cannot be read: {error}", stacklevel=3)
        return False
