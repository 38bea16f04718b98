"""A data set's options: checked when it is made, and kept as its attributes."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

from reslightning.ranges import check_names, check_values


def keep(owner: object, given: dict[str, Any]) -> None:
    """Make the arguments of a constructor, which are its locals, attributes of what it makes."""
    vars(owner).update({name: value for name, value in given.items() if name not in ("self", "__class__", "options")})


Made = TypeVar("Made")


class Checked(type):
    """Refuses options when a data module is made, those too that its class only passes on to its base."""

    @property
    def __signature__(cls) -> inspect.Signature:
        """The constructor's own signature, which ``__call__`` would hide."""
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    def __call__(cls: type[Made], *given: Any, **options: Any) -> Made:
        """Make a data module of options that are known and of their types and ranges.

        Raises:
            UserError: one that is not.
        """
        named = dict(zip(list(inspect.signature(cls).parameters), given, strict=False)) | options
        check_values(cls, named, "data")
        try:
            made = type.__call__(cls, *given, **options)
        except TypeError:
            check_names(cls, options, "data")  # what else may be wrong is the class's own
            raise
        made.check_options()
        return made
